"""Synthetic tables in capmismatch's vocabulary: an MLP family, and two families A and B whose names overlap."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

TAUS = [1.0, 2.0, 4.0, 8.0]
MLPS = [("mlp", f"mlp{width}", float(width * (16 + 26 + width))) for width in (12, 24, 48, 96, 192, 384, 768, 1024)]
RESNETS = [("A", f"resnet{depth}", depth * 1.5e4) for depth in (8, 14, 20, 32, 44, 56)] + [
    ("B", name, params)
    for name, params in [
        ("resnet20", 2.7e5),
        ("resnet56", 8.6e5),
        ("wrn16_1", 1.8e5),
        ("wrn16_2", 7e5),
        ("wrn40_2", 2.2e6),
        ("wrn16_4", 2.75e6),
    ]
]
TEMPERED = ["target_prob", "derived_average", "derived_variance", "derived_std", "inherent_variance", "entropy"]


def _place(teachers):
    """Rank of each teacher in its family from 0 to 1."""
    families = {}
    for family, teacher, params in teachers:
        families.setdefault(family, []).append((params, teacher))
    place = {}
    for family, members in families.items():
        for rank, (_, teacher) in enumerate(sorted(members)):
            place[family, teacher] = rank / (len(members) - 1)
    return place


def probes_table(teachers=MLPS, seeds=2, taus=TAUS, splits=("test",), classes=10):
    """Probes of each teacher: confidence grows with size; the inherent variance rises, then falls."""
    rng = np.random.default_rng(0)
    place, rows = _place(teachers), []
    for (family, teacher, params), seed, split in itertools.product(teachers, range(seeds), splits):
        size = place[family, teacher]
        noise = rng.normal(1, 0.02)
        common = dict(family=family, teacher=teacher, params=params, macs=2 * params, split=split, seed=seed, n=1000)
        for tau in taus:
            target = (0.35 + 0.6 * size**0.6) ** (tau**0.5) * noise
            inherent = 0.08 * np.exp(-((size - 0.7) ** 2)) / tau**1.5 * noise
            values = {
                "target_prob": target,
                "derived_average": (1 - target) / (classes - 1),
                "derived_variance": (1 - target) ** 2 * inherent,
                "derived_std": (1 - target) * inherent**0.5,
                "inherent_variance": inherent,
                "entropy": 2 * (1 - target),
            }
            rows += [dict(common, tau=tau, probe=name, value=value, se=value / 50) for name, value in values.items()]
        plain = {
            "accuracy": 0.7 + 0.25 * size**0.5 * noise,
            "target_logit": 4 + 6 * size * noise,
            "max_wrong_logit": 2 + 2 * size * noise,
            "logit_std": 2 + 3 * size * noise,
            "confidence": 0.6 + 0.38 * size**0.5 * noise,
            "nll": 0.9 - 0.6 * size * noise,
        }
        rows += [dict(common, tau=np.nan, probe=name, value=value, se=value / 50) for name, value in plain.items()]
    return pd.DataFrame(rows)


RESULT_COLUMNS = [
    "family",
    "teacher",
    "teacher_seed",
    "student",
    "label",
    "method",
    "tau",
    "seed",
    "split",
    "accuracy",
    "n",
]
NO_TEACHER = {"family": "", "teacher": "", "params": np.nan, "teacher_seed": 0}
PLAIN = {"label": "CE", "method": "CE", "tau": np.nan, "tau_other": np.nan, "tau_student": np.nan} | {
    "constraint": "",
    "margin": np.nan,
}
KD = {**PLAIN, "label": "KD tau=4", "method": "KD", "tau": 4.0, "tau_student": 4.0}
BEST_AT = [  # settings, and the place of the best teacher in its family, from 0 (smallest) to 1
    (KD, 0.7),
    ({**KD, "label": "ATS tau=4 other tau=2", "method": "ATS", "tau_other": 2.0}, 0.75),
    ({**KD, "label": "ISATS order m=1 tau=4", "method": "ISATS", "constraint": "order", "margin": 1.0}, 0.95),
    ({**KD, "label": "DKD tau=4", "method": "DKD"}, 0.6),
]


def results_table(teachers=MLPS, seeds=3, students=("mlp12",), teacher_seeds=1):
    """Accuracies of students by plain training and by four methods: they rise, then fall with the teacher's size."""
    rng = np.random.default_rng(1)
    place, rows = _place(teachers), []
    for student, split in itertools.product(students, ("val", "test")):
        common = dict(student=student, split=split, n=1000, weight=0.9)
        for seed in range(seeds):
            rows.append({**common, **NO_TEACHER, **PLAIN, "seed": seed, "accuracy": 0.72 + rng.normal(0, 0.004)})
        for (family, teacher, params), (setting, peak), seed, run in itertools.product(
            teachers, BEST_AT, range(seeds), range(teacher_seeds)
        ):
            accuracy = 0.77 - 0.06 * (place[family, teacher] - peak) ** 2 + 0.01 * peak + rng.normal(0, 0.002)
            who = dict(family=family, teacher=teacher, params=params, teacher_seed=run)
            rows.append({**common, **who, **setting, "seed": seed, "accuracy": accuracy})
    return pd.DataFrame(rows)


def temperature_grid_table(teachers=MLPS[-1:], taus=(1.0, 2.0, 4.0, 8.0), others=(0.5, 1.0, 2.0, 4.0)):
    """Results of ATS over both temperatures."""
    rows = []
    for (family, teacher, params), tau, other, seed in itertools.product(teachers, taus, others, range(2)):
        accuracy = 0.75 - 0.01 * (np.log2(tau) - 2) ** 2 - 0.008 * (np.log2(other) - 1) ** 2 + 0.001 * seed
        rows.append(
            dict(
                family=family,
                teacher=teacher,
                params=params,
                student="mlp12",
                method="ATS",
                tau=tau,
                tau_other=other,
                label=f"ATS tau={tau:g}/{other:g}",
                seed=seed,
                split="test",
                accuracy=accuracy,
            )
        )
    return pd.DataFrame(rows)


def ranks_table(teachers=MLPS, seeds=2, metrics=("wrong_tau_b",)):
    """Agreement of each two runs: it falls with the distance in size."""
    rng = np.random.default_rng(2)
    runs = [(family, teacher, seed) for family, teacher, _ in teachers for seed in range(seeds)]
    place, rows = _place(teachers), []
    for (a, b), metric in itertools.product(itertools.combinations(runs, 2), metrics):
        apart = abs(place[a[:2]] - place[b[:2]]) + 0.1 * (a[0] != b[0])
        value = 0.78 - 0.25 * apart + rng.normal(0, 0.01)
        rows.append(
            dict(
                family_a=a[0],
                teacher_a=a[1],
                seed_a=a[2],
                family_b=b[0],
                teacher_b=b[1],
                seed_b=b[2],
                split="test",
                metric=metric,
                value=value,
                se=0.005,
                n=1000,
            )
        )
    return pd.DataFrame(rows)


def affinity_table(teachers=MLPS, classes=10, names=None):
    """Class affinity with three groups of similar classes."""
    rng = np.random.default_rng(3)
    names = names or [f"class {index}" for index in range(classes)]
    groups = rng.permutation(classes) % 3
    rows = []
    for family, teacher, params in teachers:
        logits = 1.2 * (groups[:, None] == groups[None]) + rng.normal(0, 0.1 + 1e-7 * params, (classes, classes))
        np.fill_diagonal(logits, -np.inf)
        soft = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        common = dict(family=family, teacher=teacher, seed=0, tau=4.0)
        rows += [
            dict(common, true_class=names[i], other_class=names[j], value=soft[i, j])
            for i in range(classes)
            for j in range(classes)
            if i != j
        ]
    return pd.DataFrame(rows)


def reliability_table(teachers=MLPS, bins=10):
    """Calibration bins: overconfidence grows with size."""
    place, rows = _place(teachers), []
    edges = np.linspace(0, 1, bins + 1)
    for family, teacher, _ in teachers:
        for low, high in itertools.pairwise(edges):
            confidence = (low + high) / 2
            accuracy = confidence - 0.25 * place[family, teacher] * confidence * (1 - confidence) * 2
            n = 0 if low < 0.1 else int(20 + 1000 * confidence**3)
            rows.append(
                dict(
                    family=family,
                    teacher=teacher,
                    bin_low=low,
                    bin_high=high,
                    confidence=confidence if n else np.nan,
                    accuracy=accuracy if n else np.nan,
                    n=n,
                )
            )
    return pd.DataFrame(rows)


def restored_table(teachers=MLPS, seeds=2, others=(1.0, 2.0, 3.0)):
    """Restored variance by TS, ATS at several temperatures, and ISATS."""
    place, rows = _place(teachers), []
    settings = (
        [("TS", "", np.nan, 4.0)] + [("ATS", "", np.nan, other) for other in others] + [("ISATS", "order", 1.0, np.nan)]
    )
    for (family, teacher, params), seed, (method, constraint, margin, other) in itertools.product(
        teachers, range(seeds), settings
    ):
        size = place[family, teacher] + 0.01 * seed
        boost = {"TS": 1.0, "ATS": 5 / (other if np.isfinite(other) else 1), "ISATS": 4.5}[method]
        target = 0.3 + 0.5 * size - 0.03 * boost
        std = 0.03 * boost * (1 - 0.8 * (size - 0.4) ** 2) * (1 if method != "TS" else 1 - 0.6 * size)
        values = {
            "derived_std": std,
            "derived_variance": std**2,
            "inherent_variance": (std / (1 - target)) ** 2,
            "target_prob": target,
            "flipped": 0.004 * boost * size,
            "overtaken": 0.01 * boost * size * (method == "ATS"),
        }
        if method == "ISATS":
            middle = 1.2 + 1.5 * size
            values |= {
                "tau_other_q10": 0.7 * middle,
                "tau_other_q50": middle,
                "tau_other_q90": 1.4 * middle,
                "tau_other_mean": middle,
            }
        rows += [
            dict(
                family=family,
                teacher=teacher,
                params=params,
                macs=2 * params,
                split="test",
                seed=seed,
                method=method,
                constraint=constraint,
                margin=margin,
                tau_target=4.0,
                tau_other=other,
                quantity=name,
                value=value,
                se=value / 40,
                n=1000,
            )
            for name, value in values.items()
        ]
    return pd.DataFrame(rows)


def dark_knowledge_table(teachers=("mlp12", "mlp1024"), classes=10, names=None):
    """Soft labels of one example of the fourth class, by TS and ISATS."""
    names = (
        names or ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"][:classes]
    )
    rng = np.random.default_rng(4)
    logits, rows = rng.normal(0, 0.8, classes), []
    for (rank, teacher), (method, scale) in itertools.product(enumerate(teachers), [("TS", 1.0), ("ISATS", 2.2)]):
        sharp = scale * (1 - 0.3 * rank) * (logits + rng.normal(0, 0.3, classes))
        sharp[3] = 4.5
        soft = np.exp(sharp) / np.exp(sharp).sum()
        rows += [
            dict(teacher=teacher, method=method, probability=soft[index], is_target=index == 3, **{"class": name})
            for index, name in enumerate(names)
        ]
    return pd.DataFrame(rows)


def choice_table(teachers=MLPS, with_results=True):
    """A choice's table, best teacher first."""
    place = _place(teachers)
    table = pd.DataFrame(
        [dict(family=f, teacher=t, params=p, score=0.76 - 0.06 * (place[f, t] - 0.6) ** 2) for f, t, p in teachers]
    )
    table["low"], table["high"] = table["score"] - 0.004, table["score"] + 0.004
    table["tie"] = table["score"] > table["score"].max() - 0.005
    if with_results:
        weight = np.exp((table["score"] - table["score"].max()) * 600)
        table["p_best"], table["regret"] = weight / weight.sum(), 100 * (table["score"].max() - table["score"])
        table["measured"], table["accuracy"] = True, table["score"]
    return table.sort_values("score", ascending=False, ignore_index=True)


def front_table(teachers=MLPS):
    """Students against their teachers' cost, with those that no cheaper one equals."""
    table = choice_table(teachers).sort_values("params", ignore_index=True)
    best = table["accuracy"].cummax()
    table = table.assign(student="mlp12", label="KD tau=4", macs=table["params"], p_front=0.5)
    table["on_front"] = table["accuracy"].gt(best.shift(fill_value=0.0))
    plain = dict(family="", teacher="", params=0.0, macs=0.0, accuracy=0.7, low=0.69, high=0.71, on_front=True)
    return pd.concat([pd.DataFrame([dict(plain, student="mlp12", label="KD tau=4", p_front=1.0)]), table])


def links_table(probe="derived_std", tau=4.0, student="mlp12", label="KD tau=4"):
    """Three correlations between a probe and students."""
    return pd.DataFrame(
        [
            dict(
                probe=probe,
                tau=tau,
                student=student,
                label=label,
                method="KD",
                metric=metric,
                value=value,
                low=value - 0.3,
                high=value + 0.1,
            )
            for metric, value in [("pearson", 0.81), ("spearman", 0.76), ("kendall", 0.57)]
        ]
    )


def status_table(teachers=MLPS[:3], labels=("KD tau=4", "ISATS order m=1 tau=4")):
    """What `Study.status` gives of a grid that is half done: the first teachers are through, one run has failed."""
    rows = [("", "", "CE", 3, 3, 0, 0, 0, 0.0)]
    for place, ((family, teacher, _), label) in enumerate(itertools.product(teachers, labels)):
        states = [(3, 0, 0, 0), (1, 1, 1, 0), (0, 0, 0, 3)][min(2, place // len(labels))]
        rows.append((family, teacher, label, 3, *states, 90.0 * (states[1] + states[3])))
    columns = ["family", "teacher", "label", "runs", "done", "running", "failed", "waiting", "seconds_left"]
    return pd.DataFrame(rows, columns=columns)


def with_fidelity(results):
    """Results of students that were trained here: those of larger teachers follow them less."""
    place = results["params"].rank(pct=True)
    values = {"fidelity": 0.95 - 0.2 * place, "kl": 0.1 + 0.5 * place, "kl_tau4": 0.05 + 0.1 * place}
    seen = {f"train_{name}": value + 0.02 for name, value in values.items()}
    taught = results["method"] != "CE"
    return results.assign(**{name: value.where(taught) for name, value in (values | seen).items()})


def forest_table():
    """A difference in four families, one without an interval, and their mean."""
    values = {"letters": -0.3, "vowels": 0.1, "digits": -0.1, "images": -0.9, "mean of 4": -0.3}
    table = pd.DataFrame({"name": list(values), "value": list(values.values())})
    table = table.assign(low=table["value"] - 0.3, high=table["value"] + 0.3, mean=table["name"].str.startswith("mean"))
    return table.assign(low=table["low"].where(table["name"] != "digits"))


def curves_table(teachers=MLPS, epochs=10, seeds=2, late=0.002):
    """Learning curves of plain and distilled students; those of KD gain `late` in each of their last epochs."""
    rows = []
    settings = [("", "CE", "CE"), *((teacher, "KD", "KD tau=4") for _, teacher, _ in teachers[:3])]
    for (teacher, method, label), seed, epoch in itertools.product(settings, range(seeds), range(1, epochs + 1)):
        rises = late * (epoch - epochs) if method == "KD" else 0.0
        accuracy = 0.7 + 0.01 * seed + rises - 0.3 * 0.5 ** min(epoch, 0.7 * epochs)
        who = dict(family="mlp" if teacher else "", teacher=teacher, teacher_seed=seed, student="mlp12", seed=seed)
        rows.append(who | dict(method=method, label=label, epoch=epoch, loss=2 / epoch, val_accuracy=accuracy))
    return pd.DataFrame(rows)
