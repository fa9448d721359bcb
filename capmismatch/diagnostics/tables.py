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
from tqdm.auto import tqdm

from capmismatch import ranks as _ranks
from capmismatch._numerics.devices import as_device, at_once
from capmismatch._numerics.isats_options import margin_of
from capmismatch.data.bank import LogitBank, TeacherRecord
from capmismatch.diagnostics.example_values import affinities, means_of, restored_values, values_of
from capmismatch.diagnostics.means import Means, mean
from capmismatch.errors import InputError, must_be_one_of, must_be_positive
from capmismatch.probes import REGISTRY, calibration_bins
from capmismatch.temperature import ISATSSetting

TAUS = (1.0, 2.0, 4.0, 8.0)
RANK_LOGITS = 1 << 23  # of all teachers together, ranked at a time


def _identity(record: TeacherRecord) -> dict[str, Any]:
    return {
        "family": record.family,
        "teacher": record.teacher,
        "params": math.nan if record.params is None else float(record.params),
        "macs": math.nan if record.macs is None else float(record.macs),
    }


def _run(record: TeacherRecord) -> int:
    return 0 if record.seed is None else record.seed


def probe(
    bank: LogitBank,
    taus: Iterable[float] = TAUS,
    names: Iterable[str] | None = None,
    *,
    split: str | None = "val",
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Measure every probe on every teacher.

    Parameters
    ----------
    bank : a LogitBank
    taus : temperatures of the tempered probes
    names : of the registry in `capmismatch.probes.REGISTRY`; all by default
    split : rows to measure on; None for all of the bank
    device : where to compute, such as "cuda"
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
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"a": 3 * np.eye(4)}, [0, 1, 2, 3])
    >>> probe(bank, taus=[1, 4], names=["target_prob"], progress=False)[["teacher", "tau", "value"]].round(3)
      teacher  tau  value
    0       a  1.0  0.870
    1       a  4.0  0.414
    """
    temperatures, wanted, place = _temperatures(taus), _names(names), as_device(device)
    rows = []
    with tqdm(bank.teachers, desc="probe", unit="teacher", disable=not progress) as bar:
        for record in bar:
            bar.set_postfix_str(record.key)
            found = means_of(bank, record.key, temperatures, [REGISTRY[name] for name in wanted], split, place)
            for name in wanted:
                for tau in temperatures if REGISTRY[name].tempered else [None]:
                    rows.append(
                        {
                            **_identity(record),
                            "split": split or "all",
                            "seed": _run(record),
                            "tau": math.nan if tau is None else tau,
                            "probe": name,
                            **found[name, tau],
                        }
                    )
    return pd.DataFrame(rows)


def example_values(
    bank: LogitBank,
    probes: Iterable[str] | None = None,
    taus: Iterable[float] = TAUS,
    *,
    teachers: Iterable[str] | None = None,
    split: str | None = "val",
    device: str = "cpu",
) -> pd.DataFrame:
    """Values of probes for every example: what the means of `probe` are taken over.

    Parameters
    ----------
    bank : a LogitBank
    probes : names of the registry in `capmismatch.probes.REGISTRY` but log_params, which no example has; all by default
    taus : temperatures of the tempered probes
    teachers : keys as in ``bank.keys``; all by default
    split : rows to measure on; None for all of the bank
    device : where to compute, such as "cuda"

    Returns
    -------
    Tidy DataFrame with columns family, teacher, seed, split, tau, probe, id, label, value: a row for each teacher,
    probe, temperature (NaN for probes that do not depend on it) and example, which its id in the bank and the name of
    its class tell. A calibration error's values are each example's share: its confidence less hit, with the sign of its
    bin. Names are categories; ``DataFrame.pivot`` makes the table wide.

    Raises
    ------
    InputError
        An unknown probe, teacher or split, a temperature that is not positive, a device that is not there.

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
    temperatures = _temperatures(taus)
    known = [name for name, p in REGISTRY.items() if p.kind != "family"]
    wanted = known if probes is None else list(dict.fromkeys(probes))
    for name in wanted:
        must_be_one_of(name, known, "probe")
    chosen = [bank[key] for key in (bank.keys if teachers is None else dict.fromkeys(teachers))]
    rows, place = bank.select(split), as_device(device)
    heads, values = [], []
    for record in chosen:
        found = values_of(bank, record.key, temperatures, [REGISTRY[name] for name in wanted], split, place)
        for name in wanted:
            for tau in temperatures if REGISTRY[name].tempered else [None]:
                at = math.nan if tau is None else tau
                heads.append((record.family, record.teacher, _run(record), split or "all", at, name))
                values.append(found[name, tau])
    table = pd.DataFrame(heads, columns=["family", "teacher", "seed", "split", "tau", "probe"])
    table = table.astype(dict.fromkeys(["family", "teacher", "split", "probe"], "category"))
    table = table.loc[table.index.repeat(len(rows))].reset_index(drop=True)
    labels = np.tile(bank.rows.labels[rows], len(heads))
    return table.assign(
        id=np.tile(bank.rows.ids[rows], len(heads)),
        label=pd.Categorical.from_codes(labels, dtype=pd.CategoricalDtype(list(bank.classes))),
        value=np.concatenate([np.empty(0), *values]),
    )


def _temperatures(taus: Iterable[float]) -> list[float]:
    found = list(dict.fromkeys(float(tau) for tau in taus))
    for tau in found:
        must_be_positive(tau, "tau")
    return found


def _names(names: Iterable[str] | None) -> list[str]:
    found = list(REGISTRY) if names is None else list(dict.fromkeys(names))
    for name in found:
        must_be_one_of(name, REGISTRY, "probe")
    return found


PAIR_METRICS = ("wrong_tau_b", "tau_b", "wrong_spearman", "spearman", "top1_overlap", "top3_overlap", "top5_overlap")
METRICS = (*PAIR_METRICS, "affinity_tau_b")


def rank_stability(
    bank: LogitBank,
    metrics: Iterable[str] = METRICS,
    *,
    tau: float = 4.0,
    split: str | None = "val",
    device: str = "cpu",
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
    device : where to compute, such as "cuda"
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
    >>> from capmismatch.data.bank import bank_from_arrays
    >>> bank = bank_from_arrays({"a": [[5.0, 2, 1, 0]], "b": [[9.0, 1, 2, 0]]}, [0])
    >>> rank_stability(bank, ["wrong_tau_b"], progress=False)[["teacher_a", "teacher_b", "value"]].round(3)
      teacher_a teacher_b  value
    0         a         b  0.333
    """
    chosen = list(dict.fromkeys(metrics))
    for metric in chosen:
        must_be_one_of(metric, METRICS, "metric")
    must_be_positive(tau, "tau")
    if len(bank.teachers) < 2:
        raise InputError(f"class ranks compare teachers: expected at least 2 in the bank, got {len(bank.teachers)}")
    wrong = len(bank.classes) - 1
    chosen = [m for m in chosen if not m.startswith("top") or int(m[3]) <= wrong]
    pairs, place = list(combinations(range(len(bank.teachers)), 2)), as_device(device)
    found = {metric: Means(len(pairs)) for metric in chosen}
    per_example = [metric for metric in chosen if metric in PAIR_METRICS]
    if per_example:
        step = max(1, at_once(RANK_LOGITS, place) // (len(bank.classes) * len(bank.teachers)))
        with tqdm(total=len(bank.select(split)), desc="ranks", unit="row", disable=not progress) as bar:
            for parts, labels in bank.aligned_chunks(bank.keys, split, rows=step):
                logits = [torch.from_numpy(part).to(place) for part in parts]
                for metric, values in _ranks.rank_metrics(logits, labels, per_example, pairs).items():
                    found[metric].add(values.numpy())
                bar.update(len(labels))
    if "affinity_tau_b" in chosen:
        for classes, matrices in affinities(bank, tau, split, place):
            compared = _ranks.rank_metrics(matrices, classes, ["wrong_tau_b"], pairs)
            found["affinity_tau_b"].add(compared["wrong_tau_b"].numpy())
    out = []
    for pair, (a, b) in enumerate(pairs):
        first, second = bank.teachers[a], bank.teachers[b]
        for metric in chosen:
            out.append(
                {
                    "family_a": first.family,
                    "teacher_a": first.teacher,
                    "seed_a": _run(first),
                    "family_b": second.family,
                    "teacher_b": second.teacher,
                    "seed_b": _run(second),
                    "split": split or "all",
                    "metric": metric,
                    **found[metric].columns(pair),
                }
            )
    return pd.DataFrame(out)


def affinity(bank: LogitBank, tau: float = 4.0, *, split: str | None = "val", device: str = "cpu") -> pd.DataFrame:
    """Class-affinity matrices: the mean over the examples of each class of q~, the softmax over wrong classes alone.

    Parameters
    ----------
    bank : a LogitBank
    tau : temperature of q~
    split : rows to measure on; None for all of the bank
    device : where to compute, such as "cuda"

    Returns
    -------
    Tidy DataFrame with columns family, teacher, seed, tau, true_class, other_class, value; the diagonal is left out,
    and so are classes without examples.
    """
    must_be_positive(tau, "tau")
    present, classes = np.unique(bank.labels(split)), np.arange(len(bank.classes))
    true, other = (present[:, None] != classes).nonzero()
    values = np.empty((len(bank.keys), len(present), len(classes) - 1))
    for own, matrices in affinities(bank, float(tau), split, as_device(device)):
        rows = matrices.cpu().numpy()[:, own[:, None] != classes]
        values[:, np.searchsorted(present, own)] = rows.reshape(len(values), len(own), -1)
    families, teachers = (pd.Categorical([getattr(r, name) for r in bank.teachers]) for name in ("family", "teacher"))
    named = pd.CategoricalDtype(list(bank.classes))  # millions of rows of text would take longer than all the sums
    codes = (np.tile(index.astype(np.int32), len(values)) for index in (present[true], other))
    true_class, other_class = (pd.Categorical.from_codes(each_row, dtype=named) for each_row in codes)
    return pd.DataFrame(
        {
            "family": families.repeat(len(true)),
            "teacher": teachers.repeat(len(true)),
            "seed": np.repeat([_run(record) for record in bank.teachers], len(true)),
            "tau": float(tau),
            "true_class": true_class,
            "other_class": other_class,
            "value": values.ravel(),
        },
        copy=False,
    )


def reliability(bank: LogitBank, *, split: str | None = "val", device: str = "cpu") -> pd.DataFrame:
    """Reliability diagrams: confidence and accuracy by bins of confidence, for every teacher, at tau = 1.

    Parameters
    ----------
    bank : a LogitBank
    split : rows to measure on; None for all of the bank
    device : where to compute, such as "cuda"

    Returns
    -------
    Tidy DataFrame with columns family, teacher, seed, bin_low, bin_high, confidence, accuracy, n.
    """
    wanted, place = [REGISTRY["confidence"], REGISTRY["accuracy"]], as_device(device)
    frames = []
    for record in bank.teachers:
        found = values_of(bank, record.key, [], wanted, split, place)
        confidence, correct = (torch.from_numpy(found[name, None]) for name in ("confidence", "accuracy"))
        bins = calibration_bins(confidence, correct)
        identity = {"family": record.family, "teacher": record.teacher, "seed": _run(record)}
        frames.append(pd.DataFrame({**identity, **{name: values.numpy() for name, values in bins.items()}}))
    return pd.concat(frames, ignore_index=True)


def restored_variance(
    bank: LogitBank,
    tau_target: float = 4.0,
    *,
    tau_other: float = 3.0,
    constraint: str = "order",
    margin: float | None = None,
    center: str = "mean",
    bounds: tuple[float, float] = (0.5, 8.0),
    split: str | None = "val",
    device: str = "cpu",
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
    device : where to compute, such as "cuda"
    progress : whether to show a bar

    Returns
    -------
    Tidy DataFrame with columns family, teacher, params, macs, split, seed, method, constraint, margin, tau_target,
    tau_other, quantity, value, se, n. `quantity` is one of derived_variance, derived_std, inherent_variance,
    target_prob, flipped (share of examples whose arg max moved), overtaken (share of those with the target on top that
    lost it), at_bound, tau_other_mean, tau_other_q10, tau_other_q50, tau_other_q90.
    """
    must_be_positive(tau_other, "tau_other")
    setting = ISATSSetting(tau_target, bounds, constraint, center, margin_of(constraint, margin))
    place = as_device(device)
    rows = []
    with tqdm(bank.teachers, desc="isats", unit="teacher", disable=not progress) as bar:
        for record in bar:
            bar.set_postfix_str(record.key)
            found = restored_values(bank, record.key, setting, tau_other, split, place)
            right = found.pop(("", "right")) > 0
            settings = {"TS": tau_target, "ATS": tau_other, "ISATS": math.nan}
            for method, other in settings.items():
                own = method == "ISATS"
                head = {
                    **_identity(record),
                    "split": split or "all",
                    "seed": _run(record),
                    "method": method,
                    "constraint": constraint if own else "",
                    "margin": setting.margin if own else math.nan,
                    "tau_target": float(tau_target),
                    "tau_other": other,
                }
                for (name, quantity), values in found.items():
                    if name == method:
                        rows.append({**head, "quantity": quantity, **mean(values)})
                rows.append({**head, "quantity": "overtaken", **mean(found[method, "flipped"][right])})
                if own:
                    chosen = found[method, "tau_other_mean"]
                    for name, value in zip(("q10", "q50", "q90"), np.quantile(chosen, (0.1, 0.5, 0.9)), strict=True):
                        told = {"quantity": f"tau_other_{name}", "value": value, "se": math.nan, "n": len(chosen)}
                        rows.append(head | told)
            del found  # before the next teacher's are made
    return pd.DataFrame(rows)
