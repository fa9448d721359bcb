"""Findings: what a user should know about a number, each with a code that can be explained and muted.

Tables carry the codes in a column `findings`, comma-separated; `explain` says what a code means.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from capmismatch.errors import must_be_one_of

__all__ = ["FINDINGS", "Finding", "explain", "join_codes", "without_muted"]


@dataclass(frozen=True)
class Finding:
    """One kind of finding: its code, a title of a few words, and what to do about it."""

    code: str
    title: str
    explanation: str

    def __str__(self) -> str:
        return f"{self.code} {self.title}: {self.explanation}"


FINDINGS: dict[str, Finding] = {
    finding.code: finding
    for finding in (
        Finding(
            "CM001",
            "class order differs",
            "The teacher's classes stand in another order than the data set's. The columns were mapped by class name; "
            "check that the names mean the same in both.",
        ),
        Finding(
            "CM002",
            "accuracy at load is far from the published figure",
            "The teacher scores differently here than its source says. Wrong preprocessing, another class order or "
            "another test set are the usual causes, and every probe inherits the error.",
        ),
        Finding(
            "CM003",
            "too few teachers",
            "Fewer than five teachers, or so few in each of several families: a correlation over them can reach any "
            "value by chance, and no permutation test of their ranks can reach p < 0.05. Or so few for as many probes: "
            "not even a perfect link of a single one could be significant when corrected. Add teachers, name one "
            "probe beforehand, or read the value as a description.",
        ),
        Finding(
            "CM004",
            "interval covers zero",
            "The 95 % interval of the link covers zero: the data do not tell in which direction the probe and the "
            "students' accuracy go together.",
        ),
        Finding(
            "CM005",
            "confounded with confidence",
            "The probe is built from the wrong classes' probabilities, which shrink as the target's grows. The target "
            "probability at the same temperature has a link too, and the probe's is no longer distinguishable from "
            "zero once that is held fixed, so it may only restate how confident the teachers are.",
        ),
        Finding(
            "CM006",
            "sign against expectation",
            "The link points in the other direction than the probe's source expects.",
        ),
        Finding(
            "CM007",
            "teachers cannot be told apart",
            "The difference between the best teachers is within its 95 % interval. That does not make them equal: "
            "Choice.cheapest names the smallest teacher that loses no more than the tolerance with a chance of 90 %.",
        ),
        Finding(
            "CM008",
            "ISATS search sits on its bound",
            "For many examples the best temperature lies at the end of the search range: the variance has no "
            "maximum inside it, as happens without an order constraint.",
        ),
        Finding(
            "CM009",
            "probabilities given instead of logits",
            "The rows are non-negative and sum to one. Logarithms of probabilities are logits up to a constant per "
            "row; what saturated to 0 or 1 is lost.",
        ),
        Finding(
            "CM010",
            "ties from half-precision",
            "Many classes share the same value because it was stored with few digits. Rank correlations count these "
            "as ties and lose resolution; store logits, not probabilities.",
        ),
        Finding(
            "CM011",
            "logits not centred",
            "The rows' mean logit is far from zero, and asymmetric temperatures are not invariant to a shift of all "
            'logits: results depend on this drift unless rows are centred (center="mean").',
        ),
        Finding(
            "CM012",
            "families are compared with one another",
            "Most teachers stand in families of one or two, so teachers of different families are compared: what sets "
            "the families apart (architecture, recipe, data) counts as if it were the probe's doing, and can turn the "
            "sign of what holds within each.",
        ),
        Finding(
            "CM013",
            "accuracy of another split",
            "The results lack the split that was asked for and have only one, so that one was taken. Where it also "
            "chose the teacher, the setting or the students' epochs, it looks better than it is.",
        ),
        Finding(
            "CM014",
            "nothing varies",
            "The probe, or the students' accuracy, is the same for all teachers that are compared, so that the "
            "coefficient is undefined.",
        ),
        Finding(
            "CM015",
            "no reliable difference between teachers",
            "The students' mean accuracies say little about the teachers: their reliability is below 0.8 (see "
            "capmismatch.teacher_differences). No probe can be expected to correlate with them by more than the "
            "square root of the reliability. More seeds raise it.",
        ),
        Finding(
            "CM016",
            "not on the scale of logits",
            "The teacher's values have the form of probabilities (rows that sum to 1), percentages (rows that sum to "
            "100) or sigmoids (all between 0 and 1). A softmax of these is nearly flat, or nearly hard, and no probe "
            "or soft label of it means anything: give what the network computes before its last softmax or sigmoid.",
        ),
        Finding(
            "CM017",
            "class order on trust",
            "The teacher does not name its outputs, and trainers sort this data set's classes in different orders: "
            "numbers by value or as text, upper and lower case apart or together. Its columns were taken in the data "
            "set's order; give [data] classes in the order of its training, or say by_position=True where that is it.",
        ),
        Finding(
            "CM018",
            "class order assumed",
            "The teacher does not name its outputs, and its library sorts class folders in another order than the data "
            "set has. The columns were taken in the library's order; load the family with by_position=True where the "
            "teacher was trained on the data set's order.",
        ),
        Finding(
            "CM019",
            "rows hold no whole logits",
            "Rows of the teacher are constant, as where they were never written, one-hot, or hold a stand-in in all but "
            "the top classes; or its logits were made from the labels. They say nothing of the wrong classes. It is "
            "not usable: picks, links and statements leave it out.",
        ),
        Finding(
            "CM020",
            "no better than chance",
            "The teacher's accuracy is that of guessing, or below it: its rows, columns or labels are probably not "
            "those of the examples. It is not usable: picks, links and statements leave it out.",
        ),
        Finding(
            "CM021",
            "out of line with its peers",
            "The teacher's columns or some of its rows seem to stand in another order, its logits are those of another "
            "teacher, or its accuracy is far below what its size and its peers lead to expect; the column `reason` "
            "says which. It is not usable: picks, links and statements leave it out.",
        ),
        Finding(
            "CM022",
            "worse than plain training",
            "The students of the chosen teacher do worse than students taught by plain cross-entropy, beyond the 95 % "
            "interval: by these results no teacher is worth taking in this setting.",
        ),
        Finding(
            "CM025",
            "variance is lost where the teacher is right",
            "On the examples that the teacher gets right, the derived variance is lower than under plain temperature "
            "scaling at the same temperature. What the mean over all examples gains comes from the teacher's mistakes, "
            "where a wrong class holds the mass.",
        ),
        Finding(
            "CM026",
            "classes with few examples",
            "The probe compares each example with the mean of its class, and in some classes there is but one, which "
            "is that mean. Those examples are left out; where no class has two, the probe is not known.",
        ),
        Finding(
            "CM027",
            "not told apart from a plainer number",
            "Over these teachers, their accuracy, log parameters or target probability explain 90 % or more of the "
            "probe (the column `collinear` says which). Its link is theirs too, and holding one of them fixed leaves "
            "little to correlate: other teachers, not other statistics, would tell them apart.",
        ),
        Finding(
            "CM028",
            "single runs",
            "No teacher, or no student of a teacher, was trained twice, so that the noise of a rise and fall is that "
            "of the examples alone. What is said is about these very networks: trained again, they differ by more, and "
            "more courses look like a peak than 5 %.",
        ),
        Finding(
            "CM029",
            "interpolated between kept temperatures",
            "A bank of condensed rows keeps the sums over unlikely tokens at some temperatures and interpolates in "
            "between. Against all logits of a vocabulary of 50,000 such a mean was off by up to 0.3 %; at the kept "
            "temperatures by less than 0.003 %.",
        ),
        Finding(
            "CM030",
            "soft labels nearly uniform over the vocabulary",
            "Effectively more than a tenth of all wrong tokens share the probability: at this temperature the soft "
            "label is the background of unlikely tokens, and says hardly anything of which wrong tokens are likely. "
            "Take a lower temperature: over a vocabulary 0.5 to 2.",
        ),
        Finding(
            "CM031",
            "padded columns cut",
            "The logits have more columns than the tokenizer has tokens, as networks pad their last layer. The columns "
            "beyond were cut before anything was summed; a teacher that gives them more than 1e-4 of the probability "
            "is refused.",
        ),
        Finding(
            "CM032",
            "few sequences",
            "The positions come from fewer than ten texts. Positions of one text are alike, so standard errors are "
            "taken over texts, and so few of them make these errors too small and unsure.",
        ),
        Finding(
            "CM036",
            "images not normalised",
            "The network gets images scaled to [0, 1], and no mean and standard deviation were given. If it was "
            "trained on normalised images and does not normalise them itself, its logits are wrong: give mean and std.",
        ),
        Finding(
            "CM037",
            "few families",
            "Rules were compared over fewer than five families. Their intervals, over families, are wide or missing, "
            "and a rule that did best here may not do so in the next family.",
        ),
        Finding(
            "CM038",
            "no other family to learn from",
            "No family could be chosen for by what the others teach: there is none, or they have no probes in common. "
            "Rules are compared, learning from other families is not.",
        ),
    )
}
"""Every finding by its code."""


def explain(code: str) -> Finding:
    """What a finding's code means.

    Parameters
    ----------
    code : str
        Such as ``"CM003"``.

    Returns
    -------
    Finding
        With `code`, `title` and `explanation`; ``str()`` of it is the whole sentence.

    Raises
    ------
    InputError
        If there is no such code; the message lists those there are.

    Examples
    --------
    >>> explain("CM007").title
    'teachers cannot be told apart'
    """
    must_be_one_of(code, FINDINGS, "code")
    return FINDINGS[code]


def without_muted(codes: Iterable[str], mute: Iterable[str] = ()) -> list[str]:
    """The `codes`, sorted and each once, less those in `mute`.

    Raises
    ------
    InputError
        If a code to mute does not exist.

    Examples
    --------
    >>> without_muted(["CM006", "CM003", "CM006"], mute=["CM003"])
    ['CM006']
    """
    muted = {mute} if isinstance(mute, str) else set(mute)
    for code in sorted(muted):
        explain(code)
    return sorted(set(codes) - muted)


def join_codes(codes: Iterable[str], mute: Iterable[str] = ()) -> str:
    """The cell of a table's `findings` column: ``"CM003,CM004"``, or ``""`` where there are none.

    Examples
    --------
    >>> join_codes(["CM004", "CM003"])
    'CM003,CM004'
    """
    return ",".join(without_muted(codes, mute))
