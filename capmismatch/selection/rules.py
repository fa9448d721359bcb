"""The table of simple rules that name a teacher from its probes alone; a new rule is one entry of `RULES`."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_RULE = "lowest nll"
"""The rule that `pick` follows without results and evidence.

Over 21 families of perceptrons (``data/evidence``), each left out in turn, it is the one rule that meets the criterion
that was written down before: where mismatch is strong it loses less than the most accurate teacher, elsewhere no more.
It does so with six seeds, by a narrow margin; with three no rule did, and the default was "most accurate".
`capmismatch.selection.outlook.rules_left_out` has what each rule lost.
"""

VARIANCE_RULE = "highest derived_std"
"""The rule of the source paper's thesis: a larger teacher's probabilities are less distinct among the wrong classes,
and lack what makes it teach well (abstract of the journal paper, arXiv 2405.13078; the forerunner's code plots the
square root of their variance)."""

PRIMARY_PROBE = "derived_std"
"""The probe that a study is about where it names no other."""

DEFAULT_TAU = 4.0
"""Temperature at which tempered probes are compared where the table has it, else the nearest one on a log scale."""

FIRST_TAU_OF_TEXTS = 1.0
"""At which to teach a language model where no student tells: at 4 its teacher's softmax is nearly uniform."""

COMPANIONS = ("target_prob", "inherent_variance")
"""Always shown beside a derived probe: DV = (1 - p_y)^2 IV, so that alone it may only restate confidence."""

DERIVED = ("derived_std", "derived_variance")
"""Probes that are shown only together with `COMPANIONS`."""

OF_WRONG_CLASSES = ("derived_std", "derived_variance", "inherent_variance", "wrong_entropy")
"""Probes of how the wrong classes differ from one another. With two classes there is one wrong class: they are zero."""

TWO_CLASSES = (
    "with two classes there is one wrong class, so probes of differences between wrong classes are 0 by definition"
)
"""Why a table may say nothing by `OF_WRONG_CLASSES`."""

DEFAULT_RULES = (DEFAULT_RULE, "most accurate", "lowest brier", VARIANCE_RULE, "smallest")
"""What `pick` goes by: the first whose probe was measured. With a single wrong class variances are 0, and no probe."""

RULES_FOR_TEXTS = ("lowest nll", "most accurate", "smallest")
"""The same for language models: what is known of variances comes from images, and larger language models have more of
it because they know more."""

NAMES = {
    "target_prob": "p_y",
    "inherent_variance": "inherent variance",
    "derived_variance": "derived variance",
    "derived_std": "derived std",
    "accuracy": "the teacher's accuracy",
    "params": "parameters",
}
"""Names of probes in sentences."""

RELEVANT = ("largest", VARIANCE_RULE, "most accurate", DEFAULT_RULE)
"""Rules that the reasons compare with: what people do, the paper's thesis, and the default. The table has all rules."""


@dataclass(frozen=True)
class Rule:
    """Take the teacher with the highest or lowest value of a probe.

    Attributes
    ----------
    name : str
        Such as ``"largest"``.
    probe : str
        A probe, or ``"params"``.
    sign : int
        +1 for the highest value, -1 for the lowest.
    on_request : bool
        Whether its probe needs features, or a student in the bank: no one misses it where there is none.
    """

    name: str
    probe: str
    sign: int
    on_request: bool = False


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("largest", "params", 1),
        Rule("smallest", "params", -1),
        Rule("most accurate", "accuracy", 1),
        *(Rule(f"lowest {probe}", probe, -1) for probe in ("nll", "brier", "ece", "classwise_ace", "target_prob")),
        *(
            Rule(f"highest {probe}", probe, 1)
            for probe in ("derived_std", "derived_variance", "inherent_variance", "entropy", "wrong_entropy", "cmi")
        ),
        *(Rule(f"highest {probe}", probe, 1, True) for probe in ("h_score", "logme", "cka", "gradient_cosine")),
        *(Rule(f"lowest {probe}", probe, -1, True) for probe in ("kl", "rsr", "wrong_rsr", "grace")),
        Rule("size ratio 2.5", "size_gap", -1, True),
    )
}
"""Every rule by its name."""
