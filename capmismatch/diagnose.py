"""From a bank to tables: probes, class ranks, restored variance. Streams the bank, so memory stays bounded.

The formulas are in `capmismatch.probes`, `capmismatch.ranks` and `capmismatch.temperature`; here they are averaged.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from capmismatch import ranks as _ranks
from capmismatch._class_means import ClassMeans
from capmismatch.bank import LogitBank, TeacherRecord
from capmismatch.errors import InputError, must_be_one_of, must_be_positive
from capmismatch.probes import REGISTRY, ClassCentres, Probe, Softened, calibration_bins
from capmismatch.temperature import ats, isats, soften

TAUS = (1.0, 2.0, 4.0, 8.0)
CHUNK_LOGITS = 1 << 20  # logits a chunk: large enough that calls cost little, small enough to bound memory


def _identity(record: TeacherRecord) -> dict[str, Any]:
    return {
        "family": record.family, "teacher": record.teacher,
        "params": math.nan if record.params is None else float(record.params),
        "macs": math.nan if record.macs is None else float(record.macs),
    }


def _run(record: TeacherRecord) -> int:
    return 0 if record.seed is None else record.seed


def _tensors(bank: LogitBank, key: str, split: str | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of float64 logits and labels of one teacher."""
    for logits, labels in bank.chunks(key, split, rows=max(1, CHUNK_LOGITS // len(bank.classes))):
        yield torch.from_numpy(logits.astype(np.float64)), torch.from_numpy(labels)


class _Mean:
    """Mean and standard error of values that come in chunks (Chan's update, so no digits are lost)."""

    def __init__(self) -> None:
        self.n, self.mean, self.square = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        n = len(values)
        if not n:
            return
        mean = float(values.double().mean())
        square = float((values.double() - mean).square().sum())
        delta, total = mean - self.mean, self.n + n
        self.square += square + delta * delta * self.n * n / total
        self.mean += delta * n / total
        self.n = total

    @property
    def columns(self) -> dict[str, float]:
        """value, se and n of a table; NaN where there is nothing to tell."""
        se = math.sqrt(self.square / (self.n - 1) / self.n) if self.n > 1 else math.nan
        return {"value": self.mean if self.n else math.nan, "se": se, "n": self.n}


def probe(
    bank: LogitBank,
    taus: Iterable[float] = TAUS,
    names: Iterable[str] | None = None,
    *,
    split: str | None = "val",
    progress: bool = True,
) -> pd.DataFrame:
    """Measure every probe on every teacher.

    Parameters
    ----------
    bank : a LogitBank
    taus : temperatures of the tempered probes
    names : of the registry in `capmismatch.probes.REGISTRY`; all by default
    split : rows to measure on; None for all of the bank
    progress : whether to show a bar

    Returns
    -------
    Tidy DataFrame with columns family, teacher, params, macs, split, seed, tau, probe, value, se, n. `value` is the
    mean over examples and `se` its standard error (NaN for log_params); `tau` is NaN for probes that do not depend on
    it. Calibration errors are means of absolute values: their standard errors take the bins' signs as given, and say
    nothing of the upward bias that few examples bring.

    Examples
    --------
    >>> import numpy as np
    >>> from capmismatch.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"a": 3 * np.eye(4)}, [0, 1, 2, 3])
    >>> probe(bank, taus=[1, 4], names=["target_prob"], progress=False)[["teacher", "tau", "value"]].round(3)
      teacher  tau  value
    0       a  1.0  0.870
    1       a  4.0  0.414
    """
    temperatures = list(dict.fromkeys(float(tau) for tau in taus))
    for tau in temperatures:
        must_be_positive(tau, "tau")
    wanted = list(REGISTRY) if names is None else list(dict.fromkeys(names))
    for name in wanted:
        must_be_one_of(name, REGISTRY, "probe")
    rows = []
    with tqdm(bank.teachers, desc="probe", unit="teacher", disable=not progress) as bar:
        for record in bar:
            bar.set_postfix_str(record.key)
            found = _probe_teacher(bank, record, temperatures, [REGISTRY[name] for name in wanted], split)
            for name in wanted:
                for at in temperatures if REGISTRY[name].tempered else [None]:
                    rows.append(
                        {**_identity(record), "split": split or "all", "seed": _run(record),
                         "tau": math.nan if at is None else at, "probe": name, **found[name, at].columns}
                    )
    return pd.DataFrame(rows)


def _probe_teacher(
    bank: LogitBank, record: TeacherRecord, taus: list[float], chosen: list[Probe], split: str | None
) -> dict[tuple[str, float | None], _Mean]:
    """Mean and standard error of each chosen probe at each tau (None for those without)."""
    kinds: dict[str, list[Probe]] = defaultdict(list)
    for p in chosen:
        kinds[p.kind].append(p)
    found: dict[tuple[str, float | None], _Mean] = defaultdict(_Mean)
    class_means = {tau: ClassMeans.empty(len(bank.classes)) for tau in taus if kinds["spread"]}
    at_one: dict[str, list[Tensor]] = defaultdict(list)  # per-example quantities that calibration errors need at once
    for logits, labels in _tensors(bank, record.key, split):
        plain = Softened.checked(logits, labels, 1.0)
        for p in kinds["example"]:
            if not p.tempered:
                found[p.name, None].add(p.compute(plain))
        if kinds["calibration"]:
            at_one["confidence"].append(plain.confidence)
            at_one["correct"].append(plain.raw.correct)
        if kinds["classes"]:
            at_one["logsumexp"].append(logits.logsumexp(1))
        for tau in taus:
            softened = plain if tau == 1.0 else plain.at(tau)
            for p in kinds["example"]:
                if p.tempered:
                    found[p.name, tau].add(p.compute(softened))
            if kinds["spread"]:
                class_means[tau].add(softened.probs, labels)
    if kinds["spread"]:
        centres = {tau: ClassCentres(means.means) for tau, means in class_means.items()}
        for logits, labels in _tensors(bank, record.key, split):
            plain = Softened.checked(logits, labels, 1.0)
            for tau in taus:
                softened = plain.at(tau)
                for p in kinds["spread"]:
                    found[p.name, tau].add(p.compute(softened, centres[tau]))
    for p in kinds["calibration"]:
        found[p.name, None].add(p.compute(torch.cat(at_one["confidence"]), torch.cat(at_one["correct"])))
    for p in kinds["classes"]:
        found[p.name, None].add(_over_classes(p, bank, record.key, split, torch.cat(at_one["logsumexp"])))
    for p in kinds["family"]:
        found[p.name, None].add(torch.tensor([p.compute(record.params or math.nan)], dtype=torch.float64))
    return found


def _over_classes(p: Probe, bank: LogitBank, key: str, split: str | None, logsumexp: Tensor) -> Tensor:
    """A probe that sorts each class's probabilities over all examples: some classes at a time, to bound memory."""
    labels = torch.from_numpy(bank.labels(split))
    total = torch.zeros(len(labels), dtype=torch.float64)
    step = max(1, (64 << 20) // (8 * len(labels)))
    for first in range(0, len(bank.classes), step):
        block = range(first, min(first + step, len(bank.classes)))
        columns = torch.cat([logits[:, block.start : block.stop] for logits, _ in _tensors(bank, key, split)])
        is_class = (labels[:, None] == torch.arange(block.start, block.stop)).to(columns.dtype)
        total += p.compute((columns - logsumexp[:, None]).exp(), is_class)
    return total / len(bank.classes)


PAIR_METRICS = ("wrong_tau_b", "tau_b", "wrong_spearman", "spearman", "top1_overlap", "top3_overlap", "top5_overlap")
METRICS = (*PAIR_METRICS, "affinity_tau_b")


def rank_stability(
    bank: LogitBank,
    metrics: Iterable[str] = METRICS,
    *,
    tau: float = 4.0,
    split: str | None = "val",
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how far each two teachers order the classes alike.

    Parameters
    ----------
    bank : a LogitBank of at least two teachers
    metrics : "wrong_tau_b" (Kendall tau-b over the wrong classes, per example), "tau_b" (over all classes),
        "wrong_spearman", "spearman", "top1_overlap", "top3_overlap", "top5_overlap" (of the k largest wrong classes),
        "affinity_tau_b" (per class, over rows of the affinity matrix at `tau`). Overlaps of more classes than there are
        wrong ones are left out.
    tau : of the affinity matrices
    split : rows to measure on; None for all of the bank
    progress : whether to show a bar

    Returns
    -------
    Tidy DataFrame with a row a pair and metric: family_a, teacher_a, seed_a, family_b, teacher_b, seed_b, split,
    metric, value, se, n. `value` is the mean over the n examples (or classes) whose metric is defined: where a teacher
    gives all compared classes the same logit, there is no order. Two runs of one teacher that differ in the seed make
    the noise floor.

    Examples
    --------
    >>> import numpy as np
    >>> from capmismatch.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"a": [[5.0, 2, 1, 0]], "b": [[9.0, 1, 2, 0]]}, [0])
    >>> rank_stability(bank, ["wrong_tau_b"], progress=False)[["teacher_a", "teacher_b", "value"]].round(3)
      teacher_a teacher_b  value
    0         a         b  0.333
    """
    chosen = list(dict.fromkeys(metrics))
    for metric in chosen:
        must_be_one_of(metric, METRICS, "metric")
    if len(bank.teachers) < 2:
        raise InputError(f"class ranks compare teachers: expected at least 2 in the bank, got {len(bank.teachers)}")
    wrong = len(bank.classes) - 1
    chosen = [m for m in chosen if not m.startswith("top") or int(m[3]) <= wrong]
    pairs = list(combinations(range(len(bank.teachers)), 2))
    found: dict[tuple[int, int, str], _Mean] = defaultdict(_Mean)
    per_example = [metric for metric in chosen if metric in PAIR_METRICS]
    if per_example:
        step = max(1, CHUNK_LOGITS // (len(bank.classes) * len(bank.teachers)))
        rows = len(bank.select(split))
        with tqdm(total=rows, desc="ranks", unit="row", disable=not progress) as bar:
            for parts, labels in bank.aligned_chunks(bank.keys, split, rows=step):
                for metric, matrix in _ranks.rank_metrics(parts, labels, per_example, pairs).items():
                    for (a, b), row in zip(pairs, matrix, strict=True):
                        found[a, b, metric].add(row[~row.isnan()])
                bar.update(len(labels))
    if "affinity_tau_b" in chosen:
        matrices = [_affinity_matrix(bank, key, tau, split) for key in bank.keys]
        for a, b in pairs:
            row = _ranks.affinity_tau_b(matrices[a], matrices[b])
            found[a, b, "affinity_tau_b"].add(row[~row.isnan()])
    out = []
    for a, b in pairs:
        first, second = bank.teachers[a], bank.teachers[b]
        for metric in chosen:
            out.append(
                {"family_a": first.family, "teacher_a": first.teacher, "seed_a": _run(first), "family_b": second.family,
                 "teacher_b": second.teacher, "seed_b": _run(second), "split": split or "all", "metric": metric,
                 **found[a, b, metric].columns}
            )
    return pd.DataFrame(out)


def _affinity_matrix(bank: LogitBank, key: str, tau: float, split: str | None) -> Tensor:
    sums = _ranks.AffinitySums(len(bank.classes), tau)
    for logits, labels in bank.chunks(key, split):
        sums.update(logits, labels)
    return sums.matrix()


def affinity(bank: LogitBank, tau: float = 4.0, *, split: str | None = "val") -> pd.DataFrame:
    """Class-affinity matrices: the mean over the examples of each class of q~, the softmax over wrong classes alone.

    Returns
    -------
    Tidy DataFrame with columns family, teacher, seed, tau, true_class, other_class, value; the diagonal is left out,
    and so are classes without examples.
    """
    must_be_positive(tau, "tau")
    named = pd.CategoricalDtype(list(bank.classes))  # a million rows of text would take longer than all the sums
    true, other = (index.ravel() for index in np.indices((len(bank.classes), len(bank.classes))))
    frames = []
    for record in bank.teachers:
        values = _affinity_matrix(bank, record.key, tau, split).numpy().ravel()
        keep = (true != other) & ~np.isnan(values)
        frames.append(
            pd.DataFrame(
                {"family": record.family, "teacher": record.teacher, "seed": _run(record), "tau": tau,
                 "true_class": pd.Categorical.from_codes(true[keep], dtype=named),
                 "other_class": pd.Categorical.from_codes(other[keep], dtype=named), "value": values[keep]}
            )
        )
    return pd.concat(frames, ignore_index=True)


def reliability(bank: LogitBank, *, split: str | None = "val") -> pd.DataFrame:
    """Reliability diagrams: confidence and accuracy by bins of confidence, for every teacher, at tau = 1.

    Returns
    -------
    Tidy DataFrame with columns family, teacher, seed, bin_low, bin_high, confidence, accuracy, n.
    """
    frames = []
    for record in bank.teachers:
        parts = [Softened.checked(logits, labels, 1.0) for logits, labels in _tensors(bank, record.key, split)]
        bins = calibration_bins(torch.cat([p.confidence for p in parts]), torch.cat([p.raw.correct for p in parts]))
        identity = {"family": record.family, "teacher": record.teacher, "seed": _run(record)}
        frames.append(pd.DataFrame({**identity, **{name: values.numpy() for name, values in bins.items()}}))
    return pd.concat(frames, ignore_index=True)


def restored_variance(
    bank: LogitBank,
    tau_target: float = 4.0,
    *,
    tau_other: float = 3.0,
    constraint: str = "order",
    margin: float = 0.0,
    center: str = "mean",
    bounds: tuple[float, float] = (0.5, 8.0),
    split: str | None = "val",
    progress: bool = True,
) -> pd.DataFrame:
    """Measure what plain temperature scaling (TS), ATS and ISATS make of each teacher's soft labels.

    Parameters
    ----------
    bank : a LogitBank
    tau_target : temperature of TS, and of the target's logit under ATS and ISATS
    tau_other : of the wrong classes under ATS
    constraint, margin, center, bounds : of `capmismatch.temperature.isats`
    split : rows to measure on; None for all of the bank
    progress : whether to show a bar

    Returns
    -------
    Tidy DataFrame with columns family, teacher, params, macs, split, seed, method, constraint, margin, tau_target,
    tau_other, quantity, value, se, n. `quantity` is one of derived_variance, derived_std, inherent_variance,
    target_prob, flipped (share of examples whose arg max moved), overtaken (share of those with the target on top that
    lost it), at_bound, tau_other_mean, tau_other_q10, tau_other_q50, tau_other_q90.
    """
    rows = []
    with tqdm(bank.teachers, desc="isats", unit="teacher", disable=not progress) as bar:
        for record in bar:
            bar.set_postfix_str(record.key)
            found: dict[tuple[str, str], _Mean] = defaultdict(_Mean)
            chosen: list[Tensor] = []
            for logits, labels in _tensors(bank, record.key, split):
                search = isats(logits, labels, tau_target, bounds, constraint=constraint, margin=margin, center=center)
                chosen.append(search.tau_other)
                found["ISATS", "at_bound"].add(search.at_bound.double())
                found["ISATS", "tau_other_mean"].add(search.tau_other)
                probs = {
                    "TS": soften(logits, labels, tau_target),
                    "ATS": ats(logits, labels, tau_target, tau_other, center=center),
                    "ISATS": search.probs,
                }
                for method, p in probs.items():
                    flipped = search.flipped if method == "ISATS" else p.argmax(1) != logits.argmax(1)
                    for quantity, values in _shape_of(p, labels).items():
                        found[method, quantity].add(values)
                    found[method, "flipped"].add(flipped.double())
                    found[method, "overtaken"].add(flipped[logits.argmax(1) == labels].double())
            quantiles = np.quantile(torch.cat(chosen).numpy(), (0.1, 0.5, 0.9))  # torch's stops at 2^24 values
            settings = {"TS": tau_target, "ATS": tau_other, "ISATS": math.nan}
            for method, other in settings.items():
                own = method == "ISATS"
                head = {
                    **_identity(record), "split": split or "all", "seed": _run(record), "method": method,
                    "constraint": constraint if own else "", "margin": margin if own else math.nan,
                    "tau_target": float(tau_target), "tau_other": other,
                }
                for (name, quantity), m in found.items():
                    if name == method:
                        rows.append({**head, "quantity": quantity, **m.columns})
                for name, value in zip(("q10", "q50", "q90"), quantiles, strict=True):
                    if own:
                        n = found[method, "at_bound"].n
                        rows.append({**head, "quantity": f"tau_other_{name}", "value": value, "se": math.nan, "n": n})
    return pd.DataFrame(rows)


def _shape_of(p: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """p_y, DV, its root and IV of soft labels: those of their logarithms at tau = 1, which no softmax changes."""
    softened = Softened.checked(p.clamp_min(torch.finfo(p.dtype).tiny).log(), labels, 1.0)
    names = ("target_prob", "derived_variance", "derived_std", "inherent_variance")
    return {name: REGISTRY[name].compute(softened) for name in names}
