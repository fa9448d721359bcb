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

MOSTLY, ODDS, FAR_BELOW = 0.5, 10.0, 0.7
"""Share of the examples in which one class is named, how many times its usual odds, and accuracy over the peers'."""

HARD_ROWS, SHARED, NO_PEER = 20, 5.0, 0.9
"""Examples that all peers miss, how many times those of independent errors, and how good the best peer is at most."""

ERRS_IN_EASY, LEAST_IN_HARD, AS_SELDOM = 0.97, 0.5, 0.1
"""Accuracy where all peers are right, where none is, and how much lower the latter may be, of answers from labels."""

NEARLY_RIGHT, OF_HARD, FAR_BETTER = 0.995, 0.98, 0.8
"""Accuracy over all examples and over hard ones of answers from labels, and how good the best peer is at most then."""

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
    '5 of 10 classes have no example, but 50.0 % of its predictions name one of them, as confident as where it is right'
    """
    examples = np.bincount(labels, minlength=classes)
    absent, hit = examples[top] == 0, top == labels
    share = float(absent.mean())
    if share < ABSENT_SURE or not hit.any() or margin[absent].mean() < AS_SURE * margin[hit].mean():
        return share >= ABSENT, ""
    return True, (
        f"{int((examples == 0).sum())} of {classes} classes have no example, but {format_percent(share, digits=1)} of "
        "its predictions name one of them, as confident as where it is right"
    )


def one_class(labels: Ints, top: Ints, peers: Sequence[Ints], classes: int) -> str:
    """Which class a teacher names in most examples, though neither labels nor peers do; "" if there is none.

    Parameters
    ----------
    labels, top : array of shape (n,)
        The target and the predicted class.
    peers : sequence of array of shape (n,)
        What the other teachers predict; nothing is told without any.
    classes : int
        How many there are.

    Notes
    -----
    The odds of the class are `ODDS` times those among the labels and those of the median peer, and the accuracy is
    `FAR_BELOW` times theirs or less: a weak teacher of uneven classes names the frequent ones, as its peers do.

    Examples
    --------
    >>> labels = np.arange(200) % 10
    >>> one_class(labels, np.where(labels > 1, 4, labels), [labels, labels], 10)
    'it names class 4 in 80.0 % of the examples, which hold it in 10.0 %, and is right in 30.0 % (its peers: 100.0 %)'
    """
    if not peers:
        return ""
    shares = [np.bincount(column, minlength=classes) / len(labels) for column in (top, labels, *peers)]
    worst = int(shares[0].argmax())
    named, held = float(shares[0][worst]), float(shares[1][worst])
    usual = max(held, float(np.median([share[worst] for share in shares[2:]])), 1 / len(labels))
    accuracy, theirs = float((top == labels).mean()), float(np.median([(peer == labels).mean() for peer in peers]))
    odds = named * (1 - usual) / max(1e-12, usual * (1 - named))
    if named < MOSTLY or odds < ODDS or accuracy > FAR_BELOW * theirs:
        return ""
    shown = [format_percent(share, digits=1) for share in (named, held, accuracy, theirs)]
    return (
        f"it names class {worst} in {shown[0]} of the examples, which hold it in {shown[1]}, and is right in "
        f"{shown[2]} (its peers: {shown[3]})"
    )


def knows_labels(hit: NDArray[np.bool_], peers: Sequence[NDArray[np.bool_]]) -> str:
    """Why a teacher seems to know the labels: what is hard for all its peers is not for it; "" if it does not.

    Parameters
    ----------
    hit : array of shape (n,)
        Which examples it gets right.
    peers : sequence of array of shape (n,)
        The same of the other teachers; nothing is told by fewer than three.

    Notes
    -----
    A better teacher still errs where its peers do. Two cases are told, by at least `HARD_ROWS` examples that all peers
    miss, `SHARED` times as many as if they erred by themselves: it is never wrong, and no peer is right in `NO_PEER`
    of the examples (or hardly ever wrong, in hard ones too, and no peer is right in `FAR_BETTER`); or it errs in
    examples that all get right, and as seldom in those that none does.

    Examples
    --------
    >>> peers = [np.arange(400) >= first for first in (60, 80, 100)]
    >>> knows_labels(np.ones(400, bool), peers)
    'it is right in 100.0 % of the 60 examples that all others miss, and in 100.0 % of those that all get right'
    >>> knows_labels(np.arange(400) >= 8, peers)
    ''
    """
    if len(peers) < 3:
        return ""
    others = np.array(peers)
    hard, easy = ~others.any(axis=0), others.all(axis=0)
    if hard.sum() < HARD_ROWS or easy.sum() < HARD_ROWS:
        return ""
    if hard.mean() < SHARED * (1 - others.mean(axis=1)).prod():
        return ""
    of_hard, of_easy, best = float(hit[hard].mean()), float(hit[easy].mean()), float(others.mean(axis=1).max())
    never_wrong = hit.mean() >= PERFECT and of_hard == 1 and best < NO_PEER
    never_wrong |= hit.mean() >= NEARLY_RIGHT and of_hard >= OF_HARD and best < FAR_BETTER
    regardless = of_easy < ERRS_IN_EASY and of_hard >= max(LEAST_IN_HARD, of_easy - AS_SELDOM)
    if not (never_wrong or regardless):
        return ""
    shown = [format_percent(share, digits=1) for share in (of_hard, of_easy)]
    return (
        f"it is right in {shown[0]} of the {int(hard.sum())} examples that all others miss, and in {shown[1]} of those "
        "that all get right"
    )


def fixed_columns(fixed: NDArray[np.bool_], labels: Ints, top: Ints, classes: int) -> str:
    """Which column holds one value in all rows and is hardly ever predicted, though its class has examples; "" if none.

    Examples
    --------
    >>> labels = np.arange(200) % 4
    >>> fixed_columns(np.arange(4) == 3, labels, np.minimum(labels, 2), 4)
    'column 3 holds one value in all rows, and its class is predicted in 0 rows, of 50 that hold it'
    """
    if classes < 3 or not fixed.any() or fixed.all():
        return ""
    examples, named = (np.bincount(column, minlength=classes) for column in (labels, top))
    dead = np.flatnonzero(fixed & (10 * named <= examples) & (examples >= LEAST_EXAMPLES))
    if not len(dead):
        return ""
    column = int(dead[0])
    return (
        f"column {column} holds one value in all rows, and its class is predicted in {named[column]} rows, of "
        f"{examples[column]} that hold it"
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
