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
            "The teacher's class order differs from the data set's. The columns were mapped by class name. Check that "
            "the names mean the same in both.",
        ),
        Finding(
            "CM002",
            "accuracy at load is far from the published figure",
            "The teacher's accuracy here differs from the one that its source publishes. The usual causes are wrong "
            "preprocessing, another class order or another test set. Every probe inherits the error.",
        ),
        Finding(
            "CM003",
            "too few teachers",
            "There are fewer than five teachers (or so few in each family). A correlation over them can reach any "
            "value by chance, and no permutation test of their ranks can reach p < 0.05. Or there are too few teachers "
            "for this many probes: after correction, even a perfect correlation would not be significant. Add "
            "teachers, name one probe beforehand, or treat the value as descriptive.",
        ),
        Finding(
            "CM004",
            "interval covers zero",
            "The 95 % interval of the correlation covers zero: the sign of the correlation between the probe and "
            "student accuracy is unknown.",
        ),
        Finding(
            "CM005",
            "confounded with confidence",
            "The probe is made from the wrong classes' probabilities, which shrink as the target's probability grows. "
            "The target probability at the same temperature correlates with student accuracy too. With it held fixed, "
            "the correlation of the probe is not significant, so the probe may only restate the teachers' confidence.",
        ),
        Finding(
            "CM006",
            "sign against expectation",
            "The correlation has the opposite sign to the one that the probe's source expects.",
        ),
        Finding(
            "CM007",
            "teachers cannot be told apart",
            "The 95 % interval of the difference between the best teachers covers zero. They may still differ. "
            "Choice.cheapest is the smallest teacher whose regret is within the tolerance with a probability of 90 %.",
        ),
        Finding(
            "CM008",
            "ISATS search sits on its bound",
            "For many examples the best temperature is at the end of the search range: the variance has no maximum "
            "inside the range. This happens without an order constraint.",
        ),
        Finding(
            "CM009",
            "probabilities given instead of logits",
            "The rows are non-negative and sum to one. Logarithms of probabilities are logits up to a constant per "
            "row, but values that are rounded to 0 or 1 are lost.",
        ),
        Finding(
            "CM010",
            "ties from half-precision",
            "Many classes have the same value because it is stored with few digits. Rank correlations count these as "
            "ties and lose resolution. Store logits, not probabilities.",
        ),
        Finding(
            "CM011",
            "logits not centred",
            "The mean logit of the rows is far from zero. Asymmetric temperatures are not invariant to a shift of all "
            'logits, so results depend on this shift unless rows are centred (center="mean").',
        ),
        Finding(
            "CM012",
            "families are compared with one another",
            "Most families have one or two teachers, so teachers of different families are compared. Differences "
            "between families (architecture, recipe, data) are then attributed to the probe, and can reverse the sign "
            "that holds within each family.",
        ),
        Finding(
            "CM013",
            "accuracy of another split",
            "The results have only one split, and not the requested one, so that one is used. If the teacher, the "
            "setting or the students' epochs were chosen on it as well, its accuracies are too optimistic.",
        ),
        Finding(
            "CM014",
            "nothing varies",
            "The probe or the student accuracy is the same for all compared teachers, so the coefficient is undefined.",
        ),
        Finding(
            "CM015",
            "no reliable difference between teachers",
            "The reliability of the teachers' mean student accuracies is below 0.8 (see "
            "capmismatch.teacher_differences): much of their differences is noise. No probe can be expected to "
            "correlate with them by more than the square root of the reliability. More seeds raise it.",
        ),
        Finding(
            "CM016",
            "not on the scale of logits",
            "The teacher's values have the form of probabilities (rows that sum to 1), percentages (rows that sum to "
            "100) or sigmoids (all between 0 and 1). A softmax of these is nearly flat or nearly hard, so probes and "
            "soft labels made from it are meaningless. Give the output before the last softmax or sigmoid.",
        ),
        Finding(
            "CM017",
            "class order not verified",
            "The teacher does not name its outputs, and trainers sort this data set's classes in different ways: "
            "numbers by value or as text, upper and lower case apart or together. The data set's order was used. If "
            "the teacher was trained in another order, give that order in [data] classes; else set by_position=True.",
        ),
        Finding(
            "CM018",
            "class order assumed",
            "The teacher does not name its outputs, and its library sorts class folders in another order than the data "
            "set. The library's order was used. If the teacher was trained in the data set's order, load the family "
            "with by_position=True.",
        ),
        Finding(
            "CM019",
            "rows hold no whole logits",
            "Rows of the teacher are constant (for example never written), one-hot, or have a placeholder for all but "
            "the top classes; or its logits were made from the labels. They say nothing about the wrong classes. The "
            "teacher is not usable: it is left out of picks, links and statements.",
        ),
        Finding(
            "CM020",
            "not shown to be better than chance",
            "The teacher's accuracy is not significantly better than that of random predictions, or is worse. Either "
            "there are few examples, or its rows, columns or labels do not belong to these examples. It is left out "
            "of picks, links and statements.",
        ),
        Finding(
            "CM021",
            "out of line with its peers",
            "The teacher's columns or some of its rows seem to be in another order, its logits are a copy of another "
            "teacher's, or its accuracy is far below the one expected from its size and the other teachers. The column "
            "`reason` says which. It is left out of picks, links and statements.",
        ),
        Finding(
            "CM022",
            "worse than plain training",
            "The students of the chosen teacher are significantly worse than the baseline, plain cross-entropy. In "
            "this setting no teacher is worth using.",
        ),
        Finding(
            "CM023",
            "a student run does not fit the others",
            "A student's accuracy is more than fifteen robust standard deviations from that of its teacher's other "
            "students, as it is when a run crashes. Such a run widens all intervals and hides differences between "
            "teachers. Look at the run, and remove its rows from the results if it crashed.",
        ),
        Finding(
            "CM025",
            "variance is lost where the teacher is right",
            "On the examples that the teacher gets right, the derived variance is lower than under plain temperature "
            "scaling at the same temperature. The gain of the mean over all examples comes from the teacher's "
            "mistakes, where a wrong class has most of the probability.",
        ),
        Finding(
            "CM026",
            "classes with few examples",
            "The probe compares each example with the mean of its class. In some classes there is only one example, "
            "which equals that mean. Those examples are left out. If no class has two examples, the probe is unknown.",
        ),
        Finding(
            "CM027",
            "collinear with a simpler number",
            "Over these teachers, their accuracy, log parameters or target probability explain 90 % or more of the "
            "probe (the column `collinear` says which), so its correlation may be due to them. With one of them held "
            "fixed, little variance is left. Only other teachers can separate them, not other statistics.",
        ),
        Finding(
            "CM028",
            "single runs",
            "No teacher, or no student of a teacher, was trained twice, so only the sampling noise of the examples is "
            "known. The statement holds for these networks only. Networks that are trained again differ by more, and "
            "more than 5 % of curves then look like a peak.",
        ),
        Finding(
            "CM029",
            "interpolated between kept temperatures",
            "A bank of condensed rows keeps the sums over unlikely tokens at some temperatures and interpolates in "
            "between. For a vocabulary of 50,000 the error of such a mean was up to 0.4 %; at the kept temperatures "
            "it was below 0.003 %.",
        ),
        Finding(
            "CM030",
            "soft labels nearly uniform over the vocabulary",
            "Effectively more than a tenth of all wrong tokens share the probability. At this temperature the soft "
            "label mostly covers unlikely tokens, and says little about which wrong tokens are likely. Use a lower "
            "temperature: 0.5 to 2 over a vocabulary.",
        ),
        Finding(
            "CM031",
            "padded columns cut",
            "The logits have more columns than the tokenizer has tokens, because networks pad their last layer. The "
            "extra columns were cut first. A teacher that gives them more than 1e-4 of the probability is an error.",
        ),
        Finding(
            "CM032",
            "few sequences",
            "The positions come from fewer than ten texts. Positions of one text are similar, so standard errors are "
            "computed over texts. With so few texts they are too small and uncertain.",
        ),
        Finding(
            "CM033",
            "tokenizer not compared",
            "The language model has no tokenizer, so it is unknown whether its ids mean the tokens of the text. With "
            "another tokenizer, all its numbers are wrong. Signs are an accuracy near chance, or a loss far above "
            "that of similar models.",
        ),
        Finding(
            "CM034",
            "saved logits are incomplete",
            "The file lists only the likeliest tokens, at temperature 1. Values that need other tokens, or a label "
            "that is not listed, are known only within bounds. A file says little about other temperatures: at 2 most "
            "of the probability is outside the list.",
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
            "No teacher could be chosen with evidence from other families: there is no other family, or it has no "
            "probes in common. Only the rules are compared.",
        ),
        Finding(
            "CM041",
            "predictions of classes without an example",
            "Some classes have no example, but a tenth or more of the teacher's predictions are of these classes. If "
            "it is as confident in these predictions as in its correct ones, the labels are of other classes, or "
            "several classes were merged. Then the teacher is not usable: it is left out of picks, links and "
            "statements.",
        ),
        Finding(
            "CM042",
            "a split of one class",
            "All examples of a split have the same label. Measurements on it do not show how well a teacher separates "
            "classes: a constant answer is always right.",
        ),
        Finding(
            "CM046",
            "teacher looks smoothed",
            "Even the teacher's most confident predictions, which are nearly always right, have a low probability, as "
            "after training with label smoothing or mixup. The information of such a teacher about the wrong classes "
            "fades at a high temperature. Compare temperatures 1 and 2 with the usual 4, or calibrate it (method "
            "CalKD).",
        ),
        Finding(
            "CM048",
            "unlike anything measured",
            "The number of classes, the teachers' sizes or accuracies, or the setting are outside the range of all "
            "families whose students come with the package. A prediction from those families is extrapolated.",
        ),
        Finding(
            "CM049",
            "teachers that know too little",
            "Some teachers are no better than chance, or worse than a student without a teacher. They are ranked, but "
            "no rule may choose them.",
        ),
        Finding(
            "CM050",
            "no features of this teacher",
            "Features were requested, but this teacher has saved logits only, so its layers cannot be measured. A "
            "probe of features compares only the other teachers.",
        ),
        Finding(
            "CM051",
            "two tests of a peak disagree",
            "Two tests look for a rise followed by a fall: the slopes up to and from each teacher, and two lines with "
            "a break. Only one of them is significant. Accept a peak only if both are.",
        ),
        Finding(
            "CM057",
            "students not trained to the end",
            "Validation scores still rose in the last fifth of the epochs, by more than the tolerance of a pick. The "
            "best teacher may change with longer training. A learning rate that falls to zero causes part of the "
            "rise; a study with twice the epochs is a better test.",
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
