"""What a teacher answers, held against the labels: made of them, worse than one constant answer, or a class is dead.

All functions look at the predicted class, the label and a number or two of each example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from capmismatch._utils.text import format_percent

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PERFECT = 0.999
"""From this accuracy on, a teacher may hold the labels."""

EVEN, EVEN_BESIDE = 0.01, 0.1
"""Standard deviation of its margins over their mean, up to which it does: by itself, and where its peers err."""

PEERS_ERR = 0.95
"""Median accuracy of the peers below which they err."""

STRONG = 5.0
"""Standard errors that a constant answer has to be better by."""

LEVEL = 0.02
"""Chance that so few of a class are told with half of the peers' recall."""

LOW_RANK, HIGH_RANK, LEAST_EXAMPLES = 0.65, 0.85, 10
"""Mean rank of a class among the others in its own examples: of a dead one, of any other, and of how many examples."""

ABSENT, ABSENT_SURE = 0.1, 0.2
"""Share of predictions of classes without an example that is worth a word, and that speaks against the labels."""

AS_SURE = 0.85
"""Mean margin of such predictions over that of right ones, from which on they are no errors."""

KNOWS_OTHERS = 0.5
"""Share of the peers' recall that the teacher has in its other classes, or it is weak in all."""


def holds_labels(hit: NDArray[np.bool_], margin: Floats, classes: int, peers: Sequence[float]) -> bool:
    """Whether logits were made from the labels: nearly always right, and about as sure of one example as of another.

    Parameters
    ----------
    hit : array of shape (n,)
        Which examples it gets right.
    margin : array of shape (n,)
        How far its highest logit is above the next, in standard deviations of the row.
    classes : int
        Of two classes such margins are equal anyway, and nothing is told.
    peers : sequence of float
        Accuracies of the other teachers.

    Examples
    --------
    >>> holds_labels(np.ones(50, bool), np.full(50, 3.3), 10, [])
    True
    """
    if classes < 3 or hit.mean() < PERFECT:
        return False
    uneven = float(margin.std() / max(1e-12, margin.mean()))
    return uneven <= EVEN or (len(peers) > 1 and float(np.median(peers)) < PEERS_ERR and uneven <= EVEN_BESIDE)


def worse_than_constant(labels: Ints, top: Ints, classes: int) -> str:
    """How one constant answer beats a teacher, by accuracy and by the mean recall of the classes there are; "" if not.

    Labels of fewer or other classes than the columns' do this. A sound teacher of rare classes may be beaten by
    accuracy, not by mean recall too.

    Examples
    --------
    >>> labels = np.arange(200) % 10
    >>> worse_than_constant(labels % 2, labels, 10)
    'it is right in 20.0 %, a constant answer in 50.0 %: 8 of 10 classes have no example'
    """
    examples = np.bincount(labels, minlength=classes)
    present = examples > 0
    accuracy, constant = float((top == labels).mean()), float(examples.max() / len(labels))
    recall = np.bincount(labels[top == labels], minlength=classes)[present] / examples[present]
    error = np.sqrt(max(constant * (1 - constant), accuracy * (1 - accuracy)) / len(labels))
    if constant - accuracy <= STRONG * error or recall.mean() >= 1 / present.sum():
        return ""
    empty = f": {classes - present.sum()} of {classes} classes have no example" if not present.all() else ""
    answers = f"it is right in {format_percent(accuracy, digits=1)}, a constant answer in "
    return f"{answers}{format_percent(constant, digits=1)}{empty}"


def absent_classes(labels: Ints, top: Ints, margin: Floats, classes: int) -> tuple[bool, str]:
    """Whether a teacher often names classes without an example, and why its labels are of others then; "" if not so.

    Of a teacher that merely errs, these answers are less sure than its right ones. Where labels were merged or cut
    they are as sure.

    Examples
    --------
    >>> labels = np.arange(200) % 10
    >>> absent_classes(labels % 5, labels, np.ones(200), 10)[1]
    '5 of 10 classes have no example, but 50.0 % of its predictions name one of them, as sure as where it is right'
    """
    examples = np.bincount(labels, minlength=classes)
    absent, hit = examples[top] == 0, top == labels
    share = float(absent.mean())
    if share < ABSENT_SURE or not hit.any() or margin[absent].mean() < AS_SURE * margin[hit].mean():
        return share >= ABSENT, ""
    return True, (
        f"{int((examples == 0).sum())} of {classes} classes have no example, but {format_percent(share, digits=1)} of "
        "its predictions name one of them, as sure as where it is right"
    )


@dataclass(frozen=True)
class Answers:
    """What a teacher says of each example.

    Attributes
    ----------
    top : array of shape (n,)
        The predicted class.
    rank : array of shape (n,)
        Share of the other classes that the target's logit is above.
    """

    top: Ints
    rank: Floats


def dead_class(labels: Ints, mine: Answers, peers: Sequence[Answers], classes: int) -> str:
    """Which class a teacher hardly ever tells that all its peers tell well; "" if there is none.

    Parameters
    ----------
    labels : array of shape (n,)
        The target.
    mine, peers : Answers
        Of the teacher and of the others; nothing is told by fewer than two.
    classes : int
        How many there are.

    Notes
    -----
    Its recall is below half of theirs (binomial test), and it ranks the class low in its own examples: a sound teacher
    that errs still ranks the right class high.

    Examples
    --------
    >>> labels = np.arange(400) % 4
    >>> sound = Answers(labels, np.ones(400))
    >>> dead_class(labels, Answers(np.where(labels == 3, 0, labels), labels < 3), [sound, sound], 4)
    'class 3 is predicted in 0 of 100 examples, by its peers in 100.0 % or more'
    """
    if len(peers) < 2:
        return ""
    examples = np.bincount(labels, minlength=classes)
    right = np.array([np.bincount(labels[one.top == labels], minlength=classes) for one in (mine, *peers)])
    ranks = np.array([np.bincount(labels, one.rank, classes) for one in (mine, *peers)]) / np.maximum(1, examples)
    recall, present = right / np.maximum(1, examples), examples > 0
    typical, least = np.median(recall[1:], axis=0), recall[1:].min(axis=0)
    named = np.bincount(mine.top, minlength=classes)  # a class that is named, of other examples, has moved
    known = (least >= typical / 3) & (least > 0) & (named <= np.maximum(1, examples / 10))
    known &= np.median(recall[0][present]) >= KNOWS_OTHERS * np.median(typical[present])
    known &= (ranks[0] <= LOW_RANK) & (np.median(ranks[1:], axis=0) >= HIGH_RANK) & (examples >= LEAST_EXAMPLES)
    if not known.any() or np.median(ranks[0][present]) < HIGH_RANK:
        return ""
    dead = np.flatnonzero(known & (binom.cdf(right[0], examples, typical / 2) < LEVEL))
    if not len(dead):
        return ""
    worst = int(dead[np.argmax(typical[dead])])
    return (
        f"class {worst} is predicted in {right[0, worst]} of {examples[worst]} examples, by its peers in "
        f"{format_percent(least[worst], digits=1)} or more"
    )
