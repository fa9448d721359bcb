"""Whether each teacher of a bank is what it is taken for: a bank in, a table of teachers out.

A teacher whose rows, columns or files were mixed up still has logits, and often striking ones: its probes stand out
among its peers'. So every teacher is held against chance, against the labels, and against the other teachers, before
anything is said of it. All tests look at examples of the bank, and ask for strong evidence: one in some thousand sound
teachers may be called unusable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom, fisher_exact, norm, t

from capmismatch._numerics.spacing import spaced
from capmismatch._utils.text import format_percent
from capmismatch.data.bank import LogitBank, TeacherRecord
from capmismatch.data.bank_checks import check_bank
from capmismatch.diagnostics.answers import (
    Answers,
    absent_classes,
    dead_class,
    fixed_columns,
    holds_labels,
    knows_labels,
    one_class,
    worse_than_constant,
)
from capmismatch.diagnostics.leaked_labels import knows_part, noise_for_wrong_classes
from capmismatch.diagnostics.mixed_rows import NUMBERS, expected_rank, mixed_up, standardised
from capmismatch.diagnostics.moved_columns import moved_among_peers, moved_round
from capmismatch.diagnostics.repeated_rows import earlier_ones, last_rows, other_examples, repeated_block
from capmismatch.diagnostics.smoothing import looks_smoothed
from capmismatch.diagnostics.views import View, chance_accuracy, looked_at_rows, views_of
from capmismatch.findings import join_codes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_percent = partial(format_percent, digits=1)

LEAST_ROWS = 30
"""With fewer examples, accuracies are too coarse to call a teacher broken."""

LEVEL = 1e-3
"""Chance of a sound teacher to look broken, for each test of what would make it so."""

GUESS_LEVEL = 0.01
"""Chance of a guesser to look better than chance, for each of two tests: of the top class and of the target's rank."""

STRONG = 5.0
"""Standard errors that a difference takes to count as evidence against a teacher."""

SWAPPED = 0.02
"""Least share of examples that other columns would put right, for columns to count as interchanged."""

AS_GOOD = 0.7
"""Share of the peers' accuracy that a teacher reaches once its columns are put right, or they were not the fault."""

CONFIDENT = 3
"""The most confident part of the examples, one in so many, is where mixed-up rows show."""

STRUCTURE = 0.25
"""Share of the expected rank of the target among wrong classes, below which confident errors look like other rows."""

TREND = 1.5
"""Least distance (of the accuracy's log odds) below what size and peers lead to expect."""

USUAL_SCATTER, PEERS_BEFORE = 0.5, 4
"""Standard deviation of the log odds of accuracy about their line over size, and for how many teachers that counts."""

FEW_PEERS = 5
"""With fewer other teachers, what to expect of a teacher's size is not known."""

SAME, SAME_ANSWERS = 1e-3, 0.99
"""Logits that differ by less, relative to the largest, are the same but for their precision; so many answers agree."""


def check(bank: LogitBank) -> pd.DataFrame:
    """Tell which teachers of a bank are fit to be measured and picked.

    Parameters
    ----------
    bank : LogitBank
        Of any number of teachers; more of them tell more of each.

    Returns
    -------
    DataFrame
        One row per teacher and training run, smallest first within a family, with the columns

        * ``family``, ``teacher``, ``seed``: which run of which teacher; seed 0 where none is known
        * ``params``: number of parameters, NaN where unknown
        * ``n``: how many examples were looked at
        * ``accuracy``: on these, in [0, 1]
        * ``chance``: the accuracy of a teacher that predicts the classes as often as this one does, but at random
        * ``agreement``: with the other usable teachers' predictions, mean of Cohen's kappa: 0 is chance
        * ``unseen``: share of predictions that name a class without any example
        * ``drift``, ``tied``: see `capmismatch.data.bank_checks.check_bank`
        * ``findings``: codes, comma-separated; CM009 to CM011, CM019 to CM021, CM041, CM042,
          CM046, and those of collecting
        * ``usable``: False where probes, picks and links leave the teacher out
        * ``reason``: why it is not usable, in words; else ""

    See Also
    --------
    capmismatch.check_students : The same of the students in a bank.
    capmismatch.probe : Marks unusable teachers in its table.
    capmismatch.pick : Leaves them out, and says so.

    Notes
    -----
    A teacher is not usable where, tested at least at one in a thousand (the first at one in a hundred),

    * neither its accuracy nor the target's rank among the classes is shown to be above chance (binomial test; rank
      test), overall, or on a split where it does worse than elsewhere; or its accuracy is far below chance, or one
      constant answer does better (CM020);
    * other columns, found by an assignment on one half of the examples, put right 2 % or more of the other half, which
      brings it near its peers: columns were interchanged (CM021);
    * two or more columns have taken one another's places: each one's examples are taken for the next one's
      more often than for their own, or its columns go with other columns of two or more peers (CM021);
    * its confident errors rank the target as by chance, which its peers' do not, or one in ten of its rows, or of a
      weak one three in ten, go with those of two or more peers no better than rows paired at random: they belong to
      other examples (CM021; of four classes or more);
    * a block of its rows repeats earlier ones, which belong to other examples by their labels or peers (CM021);
    * its logits are those of another teacher but for a factor, or a constant per row (CM021). The first of such
      teachers stays usable; but where they have other numbers of parameters, so that one of them is not what it is
      called, none does, if others are left;
    * its accuracy is far below what its size and its peers lead to expect (Student's t of the log odds) (CM021);
    * it hardly ever tells a class that its peers tell well, a column of a class with examples is the same in all
      rows, or most predictions are of one class that neither labels nor peers have so often (CM021);
    * a fifth of its predictions, as sure as the right ones, name classes without an example (CM041). From a tenth on
      CM041 is given, and the teacher stays usable;
    * rows are constant, one-hot, or hold a stand-in in their lowest columns, or its logits were made from the labels:
      it is right in what all its peers miss as often as in what all get right, or knows the labels of part of the
      examples, or its wrong classes have nothing in common with its peers' (CM019);
    * its values are probabilities, percentages or sigmoids (CM009). Logarithms of probabilities carry CM009 too, and
      are usable.

    With fewer than 30 examples only the last is looked for. Where rows are positions of texts, columns and rows that
    moved are not looked for (they leave a language model at chance); of condensed rows the log probability of the
    target, against that of the labels' frequencies, takes the place of its rank.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 10, 1000)
    >>> sound = {f"net{gain}": gain * np.eye(10)[labels] + rng.normal(size=(1000, 10)) for gain in (3, 4, 5)}
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({**sound, "shuffled": rng.permutation(sound["net4"])}, labels)
    >>> check(bank)[["teacher", "usable"]].values.tolist()
    [['net3', True], ['net4', True], ['net5', True], ['shuffled', False]]
    """
    teachers = tuple(bank.keys)
    known = _CHECKED.get(bank)
    if known is None or known[0] != teachers:
        known = _CHECKED[bank] = teachers, _checked(bank)
    return known[1].copy()


_CHECKED: WeakKeyDictionary[LogitBank, tuple[tuple[str, ...], pd.DataFrame]] = WeakKeyDictionary()
"""Of the banks that are open: a bank's logits stay as they are, and probes, picks and reports all ask for it."""


def _checked(bank: LogitBank) -> pd.DataFrame:
    """The table of `check`."""
    checks = check_bank(bank)
    views = views_of(bank)
    find_broken(views, bank)
    if not bank.of_texts and _one_class_splits(bank):
        for view in views:
            view.codes.append("CM042")
    table = pd.DataFrame([view.row() for view in views])
    for position, view in enumerate(views):
        table.loc[position, "agreement"] = _agreement(view, views)
    for view in views:
        if view.sound and not view.of_texts and looks_smoothed(view.confidence, view.hit):
            view.codes.append("CM046")
    of_values = checks["findings"].str.split(",")
    codes = [join_codes(filter(None, [*values, *view.codes])) for values, view in zip(of_values, views, strict=True)]
    reasons = ["; ".join(dict.fromkeys(view.reasons)) for view in views]
    return table.assign(
        drift=checks["drift"], tied=checks["tied"], findings=codes, usable=[not reason for reason in reasons]
    ).assign(reason=reasons)


def _one_class_splits(bank: LogitBank) -> bool:
    """Whether a split has examples enough to be measured on, and all of one class."""
    labels, split = bank.rows.labels, bank.rows.split
    return any(np.ptp(labels[split == name]) == 0 for name in np.unique(split) if (split == name).sum() >= LEAST_ROWS)


def unusable_columns(bank: LogitBank) -> dict[str, dict[str, object]]:
    """What a table says of each teacher, by its key in the bank: usable, findings, reason; nothing if all are."""
    checks = check(bank)
    if checks["usable"].all():
        return {}
    rows = zip(bank.keys, checks["usable"], checks["findings"], checks["reason"], strict=True)
    return {key: {"usable": bool(usable), "findings": codes, "reason": why} for key, usable, codes, why in rows}


# What speaks against a teacher ----------------------------------------------------------------------------------------


def find_broken(views: Sequence[View], bank: LogitBank, *, sizes: bool = True) -> None:
    """Mark the broken teachers, the plain cases first: what is found is no peer in later tests.

    Without `sizes` none is marked because it is far below what its size lets expect.
    """
    for view in views:
        if view.looks_like:
            view.mark("CM009", f"its values are {view.looks_like}, not logits")
    enough = [view for view in views if len(view.labels) >= LEAST_ROWS]
    split = bank.rows.split[looked_at_rows(bank)]
    _mark_answers(enough)
    for view in enough:
        if reason := _guesses(view, split):
            view.mark("CM020", reason)
    classes = [view for view in enough if not view.of_texts]  # tokens or rows that moved leave a teacher at chance
    for view, reason in [(view, reason) for view in classes if (reason := columns_moved(view, _peers(view, enough)))]:
        view.mark("CM021", reason)
    for view, reason in [(view, reason) for view in classes if (reason := _rows_moved(view, _peers(view, enough)))]:
        view.mark("CM021", reason)
    for view in [view for view in classes if view.sound]:
        mine, *others = (Answers(one.top, one.rank) for one in (view, *_peers(view, enough)))
        if reason := dead_class(view.labels, mine, others, view.classes):
            view.mark("CM021", reason)
    _mark_copies(enough)
    if not bank.of_texts:
        _mark_repeated_rows(enough, bank)
    _mark_mixed_rows(enough, bank)
    _mark_known_labels(classes, split)
    if sizes:
        _mark_outliers(enough)


def _peers(view: View, views: Sequence[View]) -> list[View]:
    """The other teachers that nothing speaks against."""
    return [peer for peer in views if peer is not view and peer.sound]


def _mark_answers(views: Sequence[View]) -> None:
    """Mark teachers whose rows are incomplete, and those whose answers are not their own or worse than a constant."""
    for view in views:
        if view.lacking:
            view.mark("CM019", view.lacking)
        if not view.of_texts and (reason := worse_than_constant(view.labels, view.top, view.classes)):
            view.mark("CM020", reason)
    for view in [view for view in views if not view.of_texts]:
        often, reason = absent_classes(view.labels, view.top, view.margin, view.classes)
        if reason:
            view.mark("CM041", reason)
        elif often:
            view.codes.append("CM041")
        if holds_labels(view.hit, view.margin, view.classes, [peer.accuracy for peer in _peers(view, views)]):
            view.mark("CM019", "it is always right, and equally confident in all examples: it seems to hold the labels")
        if reason := fixed_columns(view.fixed, view.labels, view.top, view.classes):
            view.mark("CM021", reason)
    _mark_beside_peers([view for view in views if not view.of_texts])


def _mark_beside_peers(views: Sequence[View]) -> None:
    """Mark teachers whose answers are not their own, as those of their peers show."""
    reasons = []
    for view in [view for view in views if view.sound]:
        peers = _peers(view, views)
        if reason := one_class(view.labels, view.top, [peer.top for peer in peers], view.classes):
            reasons.append((view, "CM021", reason))
        if reason := knows_labels(view.hit, [peer.hit for peer in peers]):
            reasons.append((view, "CM019", f"{reason}: it seems to hold the labels"))
    for view, code, reason in reasons:
        view.mark(code, reason)


def _guesses(view: View, split: NDArray[np.str_]) -> str:
    """Why a teacher is not shown to be better than chance; "" if it is."""
    chance = view.chance()
    if _no_better(view, np.ones(len(view.labels), bool)):
        accuracy = f"{_percent(view.accuracy)} of {len(view.labels)}"
        reason = f"its accuracy, {accuracy}, is not shown to be better than chance ({_percent(chance)})"
        unseen = view.row()["unseen"]
        if isinstance(unseen, float) and unseen > 0:
            reason += f"; {_percent(unseen)} of its predictions are of classes that have no example"
        return reason
    for name in np.unique(split):
        rows = split == name
        if LEAST_ROWS <= rows.sum() < len(rows) and _worse_than_elsewhere(view, rows) and _no_better(view, rows):
            accuracy = f"{_percent(view.hit[rows].mean())} of {rows.sum()}"
            elsewhere = _percent(view.hit[~rows].mean())
            return f"its accuracy on {name}, {accuracy}, is not shown to be better than chance ({elsewhere} elsewhere)"
    return ""


def _worse_than_elsewhere(view: View, rows: NDArray[np.bool_]) -> bool:
    """Whether the accuracy on some rows is below that on the others, or on too few others to tell.

    Of a weak teacher, part of the rows alone may not show what all of them do.
    """
    hits, n, others = int(view.hit[rows].sum()), int(rows.sum()), int((~rows).sum())
    if others < LEAST_ROWS:
        return True
    table = [[hits, n - hits], [int(view.hit[~rows].sum()), others - int(view.hit[~rows].sum())]]
    return bool(fisher_exact(table, alternative="less").pvalue < LEVEL)


def _no_better(view: View, rows: NDArray[np.bool_]) -> bool:
    """Whether the accuracy on some rows is not shown to be above chance, or is far below it."""
    n, hits, chance = int(rows.sum()), int(view.hit[rows].sum()), view.chance(rows)
    if binom.cdf(hits, n, chance) < LEVEL / 10:
        return True
    if chance**n > GUESS_LEVEL or chance > 0.999:  # not even a perfect teacher would stand out, or there is one class
        return np.unique(view.labels).size > 1 and np.unique(view.top).size == 1
    above = float(binom.sf(hits - 1, n, chance))
    excess = (view.rank - view.by_chance)[rows]
    error = float(excess.std(ddof=1)) / np.sqrt(n)
    ranked = error > 0 and excess.mean() / error > norm.isf(GUESS_LEVEL)
    # With many examples the top class alone tells: a rank that is hardly better makes no teacher.
    return above > GUESS_LEVEL and (not ranked or (n * chance >= 50 and above > 0.2))


def columns_moved(view: View, peers: Sequence[View]) -> str:
    """Why a teacher's columns stand in another order; "" if they do not.

    Which class a column stands for is learnt on one half of the examples and tried on the other.
    """
    halves = [np.arange(len(view.labels)) % 2 == part for part in (0, 1)]
    right, quick = np.zeros(len(view.labels), bool), np.zeros(len(view.labels), bool)
    tables = []
    for learnt, tried in (halves, halves[::-1]):
        together = np.zeros((view.classes, view.classes))
        np.add.at(together, (view.top[learnt], view.labels[learnt]), 1)
        tables.append((together, tried))
        quick[tried] = together.argmax(axis=1)[view.top[tried]] == view.labels[tried]
    if quick.mean() - view.accuracy < SWAPPED / 2:  # the best class for each column alone: no order can do much better
        return moved_round(view.labels, view.top, view.chance(), view.classes)
    for together, tried in tables:
        columns, classes = linear_sum_assignment(together + 1e-3 * np.eye(len(together)), maximize=True)
        right[tried] = classes[np.argsort(columns)][view.top[tried]] == view.labels[tried]
    gained, gain = right.astype(float) - view.hit, float(right.mean() - view.accuracy)
    error = float(gained.std()) / np.sqrt(len(gained))
    expected = max(0.5, float(np.median([peer.accuracy for peer in peers])) if peers else 0.0)
    if gain < max(SWAPPED, STRONG * error) or right.mean() < AS_GOOD * expected:
        return moved_round(view.labels, view.top, view.chance(), view.classes)
    return (
        f"its columns seem to be in another order than the classes: its accuracy is {_percent(view.accuracy)}, and "
        f"{_percent(right.mean())} with its columns interchanged"
    )


def _rows_moved(view: View, peers: Sequence[View]) -> str:
    """Why some of a teacher's rows belong to other examples; "" if there is no sign of it.

    A sound teacher that is wrong still ranks the target above most other classes. A row of another example does not,
    and is as confident as any.
    """
    if not peers:
        return ""
    easy = np.mean([peer.hit for peer in peers], axis=0) > 0.5  # hard examples mislead sound teachers, and all alike
    structure, error = _structure(view, easy, CONFIDENT)
    of_peers = [ratio for ratio, _ in (_structure(peer, easy, 1) for peer in peers) if np.isfinite(ratio)]
    # Peers that rank the target as by chance where they are wrong say nothing; peers that are hardly ever wrong do.
    if not np.isfinite(structure) or (of_peers and np.median(of_peers) < 2.4 * STRUCTURE):
        return ""
    if structure >= STRUCTURE or structure + 3 * error >= 2 * STRUCTURE:
        return ""
    return (
        f"some of its rows seem to belong to other examples: its accuracy is {_percent(view.accuracy)}, and where it "
        "is wrong and confident, the rank of the right class is that of chance"
    )


def _mark_known_labels(views: Sequence[View], split: NDArray[np.str_]) -> None:
    """Mark teachers that know the labels of part of the examples."""
    sound = {view.record.key: view for view in views if view.sound}
    for key, share in knows_part({key: view.above for key, view in sound.items()}, split).items():
        sound[key].mark(
            "CM019",
            f"it seems to know the labels of about {format_percent(share)} of the examples, beyond what it knows of "
            "the others: labels got into its logits, or these examples into its training rows",
        )


def _mark_repeated_rows(views: Sequence[View], bank: LogitBank) -> None:
    """Mark teachers in which a block of rows repeats those of other examples."""
    sound = [view for view in views if view.sound]
    rows = last_rows(len(bank.rows.labels), len(bank.classes))
    for view in sound:
        key = view.record.key
        earlier = earlier_ones(bank.take(key, rows))
        if repeated_block(earlier, earlier >= 0) is None:
            continue
        peers = (bank.take(peer.record.key, rows) for peer in sound if peer is not view)
        block = repeated_block(earlier, other_examples(earlier, bank.rows.labels[rows], peers))
        if block is not None:
            first, last = (int(rows[row]) for row in block)
            view.mark(
                "CM021",
                f"its rows {first} to {last} repeat rows before them, which belong to other examples: a loader gave a "
                "batch twice or filled it up",
            )


def _mark_mixed_rows(views: Sequence[View], bank: LogitBank) -> None:
    """Mark teachers some of whose columns or rows go with their peers' no better than others do."""
    if bank.condensed:  # other tokens are kept of each row: rows cannot be compared with one another
        return
    sound = {view.record.key: view for view in views if view.sound}
    rows, room = looked_at_rows(bank), max(LEAST_ROWS, NUMBERS // len(bank.classes))
    some = spaced(len(rows), room)
    margins = {key: view.margin[some] for key, view in sound.items()}
    of_all = {key: standardised(bank.take(key, rows[some])) for key in sound}
    for key, columns in moved_among_peers(of_all).items() if not bank.of_texts else ():
        sound.pop(key).mark(
            "CM021",
            f"its columns {', '.join(map(str, columns))} seem to stand in one another's places: over the examples they "
            "go with those columns of the other teachers, and not with their own",
        )
    if not bank.of_texts:
        tops = {key: view.top[some] for key, view in sound.items()}
        for key in noise_for_wrong_classes({key: of_all[key] for key in sound}, tops, bank.rows.labels[rows[some]]):
            sound.pop(key).mark(
                "CM019",
                "the order of its wrong classes has nothing in common with its peers': labels or predictions with "
                "noise, no logits",
            )
    for key, share in mixed_up(list(sound), of_all, margins).items():
        sound[key].mark(
            "CM021",
            f"about {format_percent(share)} of its rows seem to belong to other examples: where it and the other "
            "teachers are confident, these rows agree with the others no more often than chance",
        )


def _structure(view: View, rows: NDArray[np.bool_], part: int) -> tuple[float, float]:
    """How the target ranks among errors, over what is expected at this accuracy; and its standard error.

    Only the most confident of `part` parts of some examples are looked at. NaN, infinity where there is nothing to tell
    by: too few classes or errors.
    """
    if view.classes < 4 or rows.sum() < LEAST_ROWS:
        return np.nan, np.inf
    confident = rows & (view.margin >= np.quantile(view.margin[rows], 1 - 1 / part))
    errors = view.wrong_rank[confident & ~view.hit]
    expected = expected_rank(float(view.hit[rows].mean()), view.classes)
    least = max(LEAST_ROWS, 0.1 * confident.sum() if part > 1 else 0)
    if len(errors) < least or not expected > 0:
        return np.nan, np.inf
    return float(errors.mean()) / expected, float(errors.std(ddof=1)) / np.sqrt(len(errors)) / expected


def _mark_copies(views: Sequence[View]) -> None:
    """Mark teachers that repeat the logits of another one.

    The first of them stays, unless sizes show that one of them is not what it is called: then it may be any, and none
    stays. Where nothing else is left to go by, the first stays all the same: its logits are sound.
    """
    groups: list[list[View]] = []
    for view in views:
        group = next((group for group in groups if _same(view, group[0])), None)
        if group is None:
            groups.append([view])
        else:
            group.append(view)
    copies = [group for group in groups if len(group) > 1]
    others = any(view.sound and not any(view in group for group in copies) for view in views)
    for first, *repeated in copies:
        for view in repeated:
            view.mark("CM021", f"its logits are a copy of those of {first.record.key}")
        other = next((view for view in repeated if not _may_be_one(first.record, view.record)), None)
        if other is not None and others:
            first.mark("CM021", f"its logits are a copy of those of {other.record.key}")


def _may_be_one(one: TeacherRecord, other: TeacherRecord) -> bool:
    """Whether two names, or two runs, may be of one network: nothing that is known of their sizes is against it."""
    same_name = (one.family, one.teacher) == (other.family, other.teacher)
    return same_name or one.params is None or other.params is None or one.params == other.params


def _same(view: View, other: View) -> bool:
    """Whether logits are equal but for one factor, a constant for each row, and the precision of storing."""
    if (view.top == other.top).mean() < SAME_ANSWERS or view.first.shape != other.first.shape:
        return False
    mine, others = _standard(view.first), _standard(other.first)
    return bool(np.abs(mine - others).max(initial=0.0) <= SAME * np.abs(mine).max(initial=1e-30))


def _standard(logits: Floats) -> Floats:
    """Logits whose rows have mean 0, over their standard deviation."""
    centred = logits - logits.mean(axis=1, keepdims=True)
    return np.asarray(centred / max(float(centred.std()), 1e-30))


def _log_odds(view: View) -> float:
    hits, n = int(view.hit.sum()), len(view.labels)
    return float(np.log((hits + 0.5) / (n - hits + 0.5)))


def _mark_outliers(views: Sequence[View]) -> None:
    """Mark teachers far below what size and peers lead to expect, the farthest first."""
    while True:
        sound = [view for view in views if view.sound]
        far = [(distance, view) for view in sound if (distance := _far_below(view, _peers(view, sound)))]
        if not far:
            return
        _, worst = max(far, key=lambda one: one[0])
        expected = float(np.median([peer.accuracy for peer in _peers(worst, sound)]))
        worst.mark(
            "CM021",
            f"its accuracy, {_percent(worst.accuracy)}, is far below what its size and the other teachers (median "
            f"{_percent(expected)}) suggest: check its preprocessing, training and loading",
        )


def _far_below(view: View, peers: Sequence[View]) -> float:
    """How many standard errors a teacher is below the line of its peers' accuracy over size; 0 unless that is far."""
    family = [peer for peer in peers if peer.record.family == view.record.family]
    peers = family if len(family) >= FEW_PEERS else peers
    if len(peers) < FEW_PEERS or not view.record.params or any(not peer.record.params for peer in peers):
        return 0.0
    sizes, odds = np.log([peer.record.params or 1 for peer in peers]), np.array([_log_odds(peer) for peer in peers])
    size = float(np.log(view.record.params))
    if (sizes < size).sum() < 2 or not sizes.std() > 0:  # a small teacher may be as weak as it likes
        return 0.0
    slope, level = np.polyfit(sizes, odds, 1)
    slope = max(0.0, float(slope))
    level = float(np.mean(odds - slope * sizes))
    rest, room = float(((odds - level - slope * sizes) ** 2).sum()), len(peers) - 2
    # So few peers tell little of how far teachers scatter about the line: what is usual counts as some more of them.
    spread = np.sqrt((rest + PEERS_BEFORE * USUAL_SCATTER**2) / (room + PEERS_BEFORE))
    leverage = 1 / len(peers) + (size - sizes.mean()) ** 2 / ((sizes - sizes.mean()) ** 2).sum()
    below = level + slope * min(size, float(sizes.max())) - _log_odds(view)
    distance = below / (spread * np.sqrt(1 + leverage))
    smaller_are_better = np.median(odds[sizes < size]) - _log_odds(view) > TREND / 2
    far = below > TREND and smaller_are_better and distance > t.isf(LEVEL / 5, room + PEERS_BEFORE)
    return float(distance) if far else 0.0


def _agreement(view: View, views: Sequence[View]) -> float:
    """Mean of Cohen's kappa with the predictions of the other usable teachers; NaN without any."""
    return float(np.mean(list(_kappas(view, views)) or [np.nan]))


def _kappas(view: View, views: Sequence[View]) -> Iterator[float]:
    for peer in views:
        if peer is not view and peer.sound:
            by_chance = chance_accuracy(peer.top, view.top, view.classes)
            yield (float((peer.top == view.top).mean()) - by_chance) / max(1e-12, 1 - by_chance)
