"""From a bank to tables: probes, class ranks, restored variance. Streams the bank, so memory stays bounded.

The formulas are in `capmismatch.probes`, `capmismatch.ranks` and `capmismatch.temperature`; here they are averaged.
Everything takes a `device`: on "cpu" compiled loops work in as many threads as torch uses; on an accelerator such as
"cuda", which has to know float64, tensor operations give the same numbers to 1e-10.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch

from capmismatch import ranks as _ranks
from capmismatch._numerics.devices import as_device, logits_at_once
from capmismatch._numerics.plain_arrays import listed
from capmismatch._utils.progress import progress_bar
from capmismatch.data.bank import LogitBank
from capmismatch.data.token_bank import TokenBank
from capmismatch.diagnostics.asked import must_measure, probes_of, specs_of, temperatures_of
from capmismatch.diagnostics.checks import unusable_columns
from capmismatch.diagnostics.example_values import (
    Affinities,
    affinities,
    means_of,
    restored_values,
    sequence_index,
    values_of,
)
from capmismatch.diagnostics.features import feature_rows, features_asked
from capmismatch.diagnostics.means import Means, running_means
from capmismatch.diagnostics.pairs import pair_rows, pairs_of
from capmismatch.diagnostics.table_rows import affinity_table, probe_rows, rank_table, restored_table_rows, seed_of
from capmismatch.diagnostics.token_tables import token_metrics, token_ranks
from capmismatch.errors import InputError, must_be_one_of, must_be_temperature
from capmismatch.probes import REGISTRY, calibration_bins

RANK_LOGITS = 1 << 23  # of all teachers together, ranked at a time


def probe(
    bank: LogitBank,
    taus: Iterable[float] | None = None,
    names: Iterable[str] | None = None,
    *,
    split: str | None = "val",
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Measure every probe on every teacher.

    Parameters
    ----------
    bank : LogitBank
        Logits of the teachers.
    taus : iterable of float, optional
        Temperatures > 0 of the tempered probes; by default 1, 2, 4, 8, and 0.5, 1, 2 over a vocabulary, where higher
        ones leave little but the background of unlikely tokens.
    names : iterable of str, optional
        Names in `capmismatch.probes.REGISTRY`, where the bank has features in `capmismatch.probes.FEATURES`, and where
        it has students in `capmismatch.probes.PAIRS`; by default all that the bank can tell.
    split : str or None, default "val"
        Rows to measure on; None for all rows of the bank.
    device : str, default "cpu"
        Where to compute, such as "cuda".
    progress : bool, default True
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        One row per teacher, probe and temperature, with the columns

        * family, teacher: names
        * params, macs: size and cost of the teacher, NaN where unknown
        * split: of the rows, or "all"
        * seed: of the teacher's training run
        * tau: temperature; NaN for probes that do not depend on it
        * probe: name in the registry
        * value: mean over the examples
        * se: standard error of `value`, taken over sequences where rows are positions of texts; NaN for log_params.
          Calibration errors are means of absolute values: their standard errors take the signs of the bins as
          fixed, and do not show the upward bias of few examples.
        * n: number of examples
        * sequences: only of texts, how many sequences the examples come from
        * exact: only of condensed rows, whether the sums behind the value were kept; else it is interpolated
        * findings: of texts {ref}`CM029 <cm029>` to {ref}`CM032 <cm032>`
        * student: only of a bank with students: which one a probe of a pair is of, missing for probes of the teacher
          alone; see `pair_probes`
        * usable, findings, reason: only if some teacher of the bank is not usable; see `capmismatch.check`. `pick` and
          `correlate` leave out rows whose `usable` is False

    Raises
    ------
    InputError
        An unknown probe or split, a temperature that is not positive, a device that is not there, features that the
        bank lacks; of condensed rows, a probe that needs all columns, or a temperature whose sums they do not know.

    See Also
    --------
    example_values : The values of every example behind these means.
    capmismatch.probes : The formulas.
    capmismatch.correlate : Links of this table with the accuracy of students.

    Examples
    --------
    >>> import numpy as np
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"a": 3 * np.eye(4)}, [0, 1, 2, 3])
    >>> probe(bank, taus=[1, 4], names=["target_prob"], progress=False)[["teacher", "tau", "value"]].round(3)
      teacher  tau  value
    0       a  1.0  0.870
    1       a  4.0  0.414
    """
    given = None if names is None else listed(names)
    temperatures, chosen, where = temperatures_of(taus, bank), probes_of(given, bank), as_device(device)
    must_measure([*chosen, *features_asked(given, bank), *pairs_of(given, bank)], temperatures)
    rows: list[dict[str, Any]] = []
    marks = unusable_columns(bank)
    with progress_bar(bank.teachers, desc="probe", unit="teacher", show=progress) as bar:
        for record in bar:
            bar.set_postfix_str(record.key)
            means = means_of(bank, record.key, temperatures, [REGISTRY[name] for name in chosen], split, where)
            rows += probe_rows(bank, record, means, temperatures, chosen, split, marks)
    rows += feature_rows(bank, given, split, marks)
    return pd.DataFrame([*rows, *pair_rows(bank, temperatures, given, split, marks)])


def example_values(
    bank: LogitBank,
    probes: Iterable[str] | None = None,
    taus: Iterable[float] | None = None,
    *,
    teachers: Iterable[str] | None = None,
    split: str | None = "val",
    device: str = "cpu",
) -> pd.DataFrame:
    """Values of probes for every example: what the means of `probe` are taken over.

    Parameters
    ----------
    bank : LogitBank
        Logits of the teachers.
    probes : iterable of str, optional
        Names in `capmismatch.probes.REGISTRY` but log_params, which examples do not have; by default all that the
        bank's rows can tell.
    taus : iterable of float, optional
        Temperatures > 0 of the tempered probes; defaults as of `probe`.
    teachers : iterable of str, optional
        Names, or keys as in ``bank.keys``; all by default. A name stands for all training runs of its teacher.
    split : str or None, default "val"
        Rows to measure on; None for all rows of the bank.
    device : str, default "cpu"
        Where to compute, such as "cuda".

    Returns
    -------
    DataFrame
        One row per teacher, probe, temperature and example; names are categories, and ``DataFrame.pivot`` makes the
        table wide. Columns:

        * family, teacher: names
        * seed: of the teacher's training run
        * split: of the rows, or "all"
        * tau: temperature; NaN for probes that do not depend on it
        * probe: name in the registry
        * sequence: only of texts, number of the sequence that the example is a position of
        * id: of the example in the bank
        * label: name of the example's class
        * value: of the probe. For a calibration error it is the example's share: its confidence less hit, with the
          sign of its bin.

    Raises
    ------
    InputError
        An unknown probe, teacher or split, a temperature that is not positive, a device that is not there.

    See Also
    --------
    probe : The means of these values.

    Examples
    --------
    >>> import numpy as np
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"a": [[3.0, 1, 0]], "b": [[9.0, 1, 0]]}, [0])
    >>> table = example_values(bank, ["target_prob", "nll"], taus=[4])
    >>> table[["teacher", "tau", "probe", "id", "label", "value"]].round(3)
      teacher  tau        probe id label  value
    0       a  4.0  target_prob  0     0  0.481
    1       a  NaN          nll  0     0  0.170
    2       b  4.0  target_prob  0     0  0.806
    3       b  NaN          nll  0     0  0.000
    """
    temperatures = temperatures_of(taus, bank)
    chosen = probes_of(probes, bank, per_example=True)
    named = bank.keys if teachers is None else [key for name in listed(teachers) for key in bank.keys_of(name)]
    records = [bank[key] for key in dict.fromkeys(named)]
    rows, where = bank.select(split), as_device(device)
    heads, values = [], []
    for record in records:
        columns = values_of(bank, record.key, temperatures, [REGISTRY[name] for name in chosen], split, where)
        for name in chosen:
            for tau in temperatures if REGISTRY[name].tempered else [None]:
                at = math.nan if tau is None else tau
                heads.append((record.family, record.teacher, seed_of(record), split or "all", at, name))
                values.append(columns[name, tau])
    table = pd.DataFrame(heads, columns=["family", "teacher", "seed", "split", "tau", "probe"])
    table = table.astype(dict.fromkeys(["family", "teacher", "split", "probe"], "category"))
    table = table.loc[table.index.repeat(len(rows))].reset_index(drop=True)
    labels = np.tile(bank.rows.labels[rows], len(heads))
    if bank.rows.sequences is not None:
        table["sequence"] = np.tile(bank.rows.sequences[rows], len(heads))
    return table.assign(
        id=np.tile(bank.rows.ids[rows], len(heads)),
        label=pd.Categorical.from_codes(labels, dtype=pd.CategoricalDtype(list(bank.classes))),
        value=np.concatenate([np.empty(0), *values]),
    )


PAIR_METRICS = ("wrong_tau_b", "tau_b", "wrong_spearman", "spearman", "top1_overlap", "top3_overlap", "top5_overlap")
METRICS = (*PAIR_METRICS, "affinity_tau_b")


def rank_stability(
    bank: LogitBank,
    metrics: Iterable[str] | None = None,
    *,
    tau: float = 4.0,
    split: str | None = "val",
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how similarly each pair of teachers orders the classes.

    Two runs of one teacher that differ only in the seed give the noise floor.

    Parameters
    ----------
    bank : LogitBank
        Logits of at least two teachers.
    metrics : iterable of str, optional
        All by default. Of condensed rows they are others, see below.

        * "wrong_tau_b": Kendall's tau-b over the wrong classes, per example
        * "tau_b": Kendall's tau-b over all classes, per example
        * "wrong_spearman", "spearman": Spearman's rho over the same classes, per example
        * "top1_overlap", "top3_overlap", "top5_overlap": share of the k largest wrong classes that both have, per
          example; left out where there are fewer than k wrong classes
        * "affinity_tau_b": Kendall's tau-b per class, over rows of the affinity matrices at `tau`

        Of condensed rows (`capmismatch.TokenBank`), over a vocabulary:

        * "vocab_tau_b", "vocab_spearman": over random wrong tokens, the same for all teachers: unbiased, as every pair
          of tokens is as likely
        * "head_tau_b": Kendall's tau-b over the likeliest wrong tokens of the bank's reference teacher. Another
          quantity: whether teachers order likely tokens alike
        * "top1_overlap", "top3_overlap", "top5_overlap", and that of all kept tokens, such as "top64_overlap"
    tau : float, default 4.0
        Temperature > 0 of the affinity matrices.
    split : str or None, default "val"
        Rows to measure on; None for all rows of the bank.
    device : str, default "cpu"
        Where to compute, such as "cuda".
    progress : bool, default True
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        One row per pair of teachers and metric, with the columns

        * family_a, teacher_a, seed_a: the first teacher and the seed of its training run
        * family_b, teacher_b, seed_b: the second
        * split: of the rows, or "all"
        * metric: name of the metric
        * value: mean over the examples (or classes) whose metric is defined; it is not where a teacher gives all
          compared classes the same logit
        * se: standard error of `value`, taken over sequences where rows are positions of texts
        * n: number of examples (or classes) in the mean
        * sequences: only of texts, how many sequences the examples come from

    Raises
    ------
    InputError
        Fewer than two teachers, an unknown metric or split, a temperature that is not positive, a device that is not
        there.

    See Also
    --------
    capmismatch.ranks.rank_metrics : The same metrics of arrays, per example.
    capmismatch.ranks.affinity_tau_b : The same of two affinity matrices, per class.
    capmismatch.plots.rank_matrix : The figure of this table.

    Examples
    --------
    >>> import numpy as np
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"a": [[5.0, 2, 1, 0]], "b": [[9.0, 1, 2, 0]]}, [0])
    >>> rank_stability(bank, ["wrong_tau_b"], progress=False)[["teacher_a", "teacher_b", "value"]].round(3)
      teacher_a teacher_b  value
    0         a         b  0.333
    """
    tokens = bank if isinstance(bank, TokenBank) and bank.condensed else None
    known = METRICS if tokens is None else token_metrics(tokens)
    chosen = list(known) if metrics is None else list(dict.fromkeys(listed(metrics)))
    for metric in chosen:
        must_be_one_of(metric, known, "metric")
    must_be_temperature(tau, "tau")
    if len(bank.teachers) < 2:
        raise InputError(f"class ranks compare teachers: expected at least 2 in the bank, got {len(bank.teachers)}")
    if tokens is not None:
        of_pairs = token_ranks(tokens, chosen, split, progress)
        return rank_table(bank, list(combinations(range(len(bank.teachers)), 2)), of_pairs, split or "all")
    if metrics is None and bank.of_texts:  # the mean over tokens as targets is no class, and V x V numbers
        chosen.remove("affinity_tau_b")
    wrong_classes = len(bank.classes) - 1
    chosen = [m for m in chosen if not m.startswith("top") or int(m[3]) <= wrong_classes]
    pairs, where = list(combinations(range(len(bank.teachers)), 2)), as_device(device)
    clusters, done = sequence_index(bank, split), 0
    means = {m: Means(len(pairs)) if m not in PAIR_METRICS else running_means(len(pairs), clusters) for m in chosen}
    per_example = [metric for metric in chosen if metric in PAIR_METRICS]
    if per_example:
        step = max(1, logits_at_once(RANK_LOGITS, where) // (len(bank.classes) * len(bank.teachers)))
        with progress_bar(total=len(bank.select(split)), desc="ranks", unit="row", show=progress) as bar:
            for blocks, labels in bank.aligned_chunks(bank.keys, split, rows=step):
                logits = [torch.from_numpy(block).to(where) for block in blocks]
                for metric, values in _ranks.rank_metrics(logits, labels, per_example, pairs).items():
                    some = slice(done, done + len(labels))
                    means[metric].add(values.numpy(), clusters if clusters is None else clusters[some])
                done += len(labels)
                bar.update(len(labels))
    if "affinity_tau_b" in chosen:
        for classes, matrices in affinities(bank, tau, split, where):
            compared = _ranks.rank_metrics(matrices, classes, ["wrong_tau_b"], pairs)
            means["affinity_tau_b"].add(compared["wrong_tau_b"].numpy())
    return rank_table(bank, pairs, means, split or "all")


def affinity(bank: LogitBank, tau: float = 4.0, *, split: str | None = "val", device: str = "cpu") -> pd.DataFrame:
    """Class-affinity matrices: the mean over the examples of each class of q~, the softmax over wrong classes alone.

    Parameters
    ----------
    bank : LogitBank
        Logits of the teachers.
    tau : float, default 4.0
        Temperature > 0 of q~.
    split : str or None, default "val"
        Rows to measure on; None for all rows of the bank.
    device : str, default "cpu"
        Where to compute, such as "cuda".

    Returns
    -------
    DataFrame
        One row per teacher, class with examples and other class, with the columns

        * family, teacher: names
        * seed: of the teacher's training run
        * tau: temperature
        * true_class: class of the examples
        * other_class: wrong class; the diagonal is left out
        * value: mean of q~, in [0, 1]; sums to 1 over the other classes

    Raises
    ------
    InputError
        An unknown split, a temperature that is not positive, a device that is not there.

    See Also
    --------
    capmismatch.ranks.affinity_matrix : The same of one array of logits.
    rank_stability : Compares these matrices between teachers ("affinity_tau_b").
    capmismatch.plots.affinity_map : The figure of this table.
    """
    bank.must_keep_all("class affinities")
    must_be_temperature(tau, "tau")
    found = Affinities(bank, split)
    for classes, matrices in affinities(bank, float(tau), split, as_device(device)):
        found.add(classes, matrices)
    return affinity_table(bank, float(tau), found)


def reliability(bank: LogitBank, *, split: str | None = "val", device: str = "cpu") -> pd.DataFrame:
    """Reliability diagrams: confidence and accuracy by bins of confidence, for every teacher, at tau = 1.

    Parameters
    ----------
    bank : LogitBank
        Logits of the teachers.
    split : str or None, default "val"
        Rows to measure on; None for all rows of the bank.
    device : str, default "cpu"
        Where to compute, such as "cuda".

    Returns
    -------
    DataFrame
        One row per teacher and bin (15 of equal width), with the columns

        * family, teacher: names
        * seed: of the teacher's training run
        * bin_low, bin_high: the bin (low, high] of confidence, in [0, 1]
        * confidence: mean confidence in the bin, NaN where it is empty
        * accuracy: share of hits in the bin, NaN where it is empty
        * n: number of examples in the bin

    Raises
    ------
    InputError
        An unknown split, a device that is not there.

    See Also
    --------
    capmismatch.probes.calibration_bins : The same of one array of confidences.
    capmismatch.plots.reliability_diagram : The figure of this table.
    """
    probes, where = [REGISTRY["confidence"], REGISTRY["accuracy"]], as_device(device)
    frames = []
    for record in bank.teachers:
        values = values_of(bank, record.key, [], probes, split, where)
        confidence, correct = (torch.from_numpy(values[name, None]) for name in ("confidence", "accuracy"))
        bins = calibration_bins(confidence, correct)
        identity = {"family": record.family, "teacher": record.teacher, "seed": seed_of(record)}
        frames.append(pd.DataFrame({**identity, **{name: column.numpy() for name, column in bins.items()}}))
    return pd.concat(frames, ignore_index=True)


def restored_variance(
    bank: LogitBank,
    tau_target: float | None = None,
    *,
    tau_other: float | None = None,
    constraint: str = "order",
    margin: float | None = None,
    center: str = "mean",
    bounds: tuple[float, float] | None = None,
    wrong: str | None = None,
    split: str | None = "val",
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Measure what plain temperature scaling (TS), ATS and ISATS make of each teacher's soft labels.

    Parameters
    ----------
    bank : LogitBank
        Logits of the teachers.
    tau_target : float, optional
        Temperature > 0 of TS, and of the target's logit under ATS and ISATS; by default 4, and 1 of texts.
    tau_other : float, optional
        Temperature > 0 of the wrong classes under ATS; by default 3, and 0.75 of texts.
    constraint : {"order", "anchor", "none"}, default "order"
        Of `capmismatch.temperature.isats`.
    margin : float, optional
        Of `capmismatch.temperature.isats`; 1 by default with the constraint "order".
    center : {"mean", "none"}, default "mean"
        Of `capmismatch.temperature.ats` and `capmismatch.temperature.isats`.
    bounds : tuple of float, optional
        (low, high) between which ISATS searches its temperature of the wrong classes; by default (0.5, 8), and (0.5, 2)
        of texts.
    wrong : {"plain", "target", "free"}, optional
        Of `capmismatch.temperature.isats`: what happens to the rows that a teacher gets wrong. By default "free", and
        "plain" of texts, where these are most rows; of texts it goes for ATS as well.
    split : str or None, default "val"
        Rows to measure on; None for all rows of the bank.
    device : str, default "cpu"
        Where to compute, such as "cuda".
    progress : bool, default True
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        One row per teacher, method, quantity and kind of rows, with the columns

        * family, teacher: names
        * params, macs: size and cost of the teacher, NaN where unknown
        * split: of the rows, or "all"
        * seed: of the teacher's training run
        * method: TS, ATS or ISATS
        * constraint, margin, wrong: of ISATS; "", NaN and "" for the other methods
        * tau_target: temperature of the target's logit
        * tau_other: temperature of the wrong classes; NaN for ISATS, which has one per example
        * quantity: derived_variance, derived_std, inherent_variance, target_prob; flipped (share of examples whose arg
          max moved); overtaken (share of the examples with the target on top that lost it); for ISATS also at_bound
          (share of examples whose tau_other sits on a bound), tau_other_mean and its quantiles tau_other_q10,
          tau_other_q50, tau_other_q90
        * rows: "all" examples, those that the teacher gets "right", or those that it gets "wrong"
        * value: mean over these examples, or the quantile; NaN where there are none
        * se: standard error of `value`, taken over sequences where rows are positions of texts; NaN for quantiles
        * n: number of these examples
        * sequences: only of texts, how many sequences the examples come from
        * findings: {ref}`CM025 <cm025>` with the derived variance of "right" rows where it is lower than under TS;
          {ref}`CM030 <cm030>` with effective_wrong where soft labels are nearly uniform

    Raises
    ------
    InputError
        A number out of its range, an unknown constraint, center, wrong or split, a device that is not there.

    See Also
    --------
    capmismatch.temperature.isats : The same of one array of logits, per example.
    capmismatch.plots.isats_restored : The figure of this table.
    capmismatch.dark_knowledge : The same methods on one example, class by class.
    """
    if tau_target is not None:
        must_be_temperature(tau_target, "tau_target")
    given = {"tau": tau_target, "tau_other": tau_other, "bounds": bounds, "wrong": wrong}
    specs = specs_of(bank, given, constraint=constraint, margin=margin, center=center)
    where, clusters = as_device(device), sequence_index(bank, split)
    rows: list[dict[str, Any]] = []
    with progress_bar(bank.teachers, desc="isats", unit="teacher", show=progress) as bar:
        for record in bar:
            bar.set_postfix_str(record.key)
            values, correct = restored_values(bank, record.key, specs, split, where)
            rows += restored_table_rows(bank, record, specs, split, values, correct, clusters)
            del values  # before the next teacher's are made
    return pd.DataFrame(rows)
