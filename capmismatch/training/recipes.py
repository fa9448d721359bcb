"""How students are trained, in numbers: the recipe, and those that papers use, by name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from capmismatch.errors import InputError, must_be_one_of, must_be_positive, must_be_within, must_count

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("onecycle", "cosine", "step", "constant")
AUTOCAST = (None, "bfloat16", "float16")
MOST_STEPS = 1_000_000  # of epochs, rows of a step, pixels
# Options added after the first studies: left out at their defaults, so that hashes of earlier recipes stay.
_LEFT_OUT_AT_DEFAULT = ("keep_best", "patience", "autocast", "channels_last", "clip")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes
    ----------
    epochs : int
        How often all rows are seen.
    batch_size : int
        Rows of a step. The last, smaller batch of an epoch is used too.
    optimizer : str
        "adamw" or "sgd" (Nesterov momentum).
    lr : float
        Peak learning rate.
    schedule : str
        "onecycle" (PyTorch's: up for 30 % of the steps, then down; meanwhile it moves the momentum, AdamW's first beta,
        between 0.95 and 0.85), "cosine", "step" (times 0.1 at each of `milestones`) or "constant". All but the first
        rise linearly over `warmup_epochs`.
    milestones : tuple of int
        Epochs at which "step" drops.
    warmup_epochs : int
        Over which the rate rises; not used by "onecycle".
    weight_decay : float
        As the optimiser takes it.
    momentum : float
        Of "sgd".
    shift : int
        Images are moved by up to this many pixels each way and filled up with zeros. The teacher does not see it.
    keep_best : bool
        Measure validation accuracy after every epoch, and end with the weights of the first epoch that had the best.
    patience : int
        With `keep_best`: stop after this many epochs without a better one. 0 never stops early.
    autocast : str or None
        "bfloat16" or "float16" (with scaled gradients): half precision where torch considers it safe.
    channels_last : bool
        Keep images and convolutions in memory channel by channel: faster, and rounded differently.
    clip : float
        Gradients of a larger norm are scaled down to it; 0 leaves all as they are.
    """

    epochs: int = 30
    batch_size: int = 100
    optimizer: str = "adamw"
    lr: float = 5e-3
    schedule: str = "onecycle"
    milestones: tuple[int, ...] = ()
    warmup_epochs: int = 0
    weight_decay: float = 0.01
    momentum: float = 0.9
    shift: int = 0
    keep_best: bool = False
    patience: int = 0
    autocast: str | None = None
    channels_last: bool = True
    clip: float = 0.0

    def __post_init__(self) -> None:
        must_be_one_of(self.optimizer, OPTIMIZERS, "optimizer")
        must_be_one_of(self.schedule, SCHEDULES, "schedule")
        must_be_one_of(self.autocast, AUTOCAST, "autocast")
        for name, least in {"epochs": 1, "batch_size": 1, "warmup_epochs": 0, "shift": 0, "patience": 0}.items():
            must_count(getattr(self, name), name, least=least, most=MOST_STEPS)
        for milestone in self.milestones:
            must_count(milestone, "milestones", most=MOST_STEPS)
        must_be_positive(self.lr, "lr")
        for name, most in {"lr": 1e6, "weight_decay": 1e6, "momentum": 1.0, "clip": 1e6}.items():
            must_be_within(getattr(self, name), name, 0.0, most)
        if self.patience and not self.keep_best:
            raise InputError(f"patience waits for a better epoch: set keep_best too, got patience={self.patience}")

    @classmethod
    def named(cls, name: str, **changes: Any) -> Recipe:
        """Return a recipe by name, with changes.

        Parameters
        ----------
        name : str
            "cifar240", that of distillation papers on CIFAR (arXiv 1910.10699 and its descendants), after a warm-up of
            5 epochs; or "cifar5", a short one for a CPU, which brings a ResNet-8 to about 70 % on CIFAR-10.
        **changes : Any
            Values of attributes. Where `epochs` changes, milestones and warm-up move in proportion.

        Returns
        -------
        Recipe
            The named recipe with these changes.

        Examples
        --------
        >>> short = Recipe.named("cifar240", epochs=48, lr=0.1)
        >>> short.milestones, short.warmup_epochs, short.lr, short.batch_size
        ((30, 36, 42), 1, 0.1, 128)
        """
        must_be_one_of(name, NAMED, "recipe")
        values = dict(NAMED[name])
        share = changes.get("epochs", values["epochs"]) / values["epochs"]
        for key in {"milestones", "warmup_epochs"} & values.keys():
            epochs = values[key]
            scaled = tuple(round(epoch * share) for epoch in epochs) if isinstance(epochs, tuple) else None
            values[key] = round(epochs * share) if scaled is None else scaled
        return cls(**{**values, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return what decides a training's result: all attributes but later additions at their defaults."""
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        return {
            key: value
            for key, (value, default) in values.items()
            if key not in _LEFT_OUT_AT_DEFAULT or value != default
        }

    def __repr__(self) -> str:
        return f"Recipe({', '.join(f'{key}={value!r}' for key, value in self.to_dict().items())})"


NAMED: dict[str, dict[str, Any]] = {
    "cifar240": {
        "epochs": 240,
        "batch_size": 128,
        "optimizer": "sgd",
        "lr": 0.05,
        "schedule": "step",
        "milestones": (150, 180, 210),
        "warmup_epochs": 5,
        "weight_decay": 5e-4,
        "shift": 4,
    },
    "cifar5": {
        "epochs": 5,
        "batch_size": 128,
        "optimizer": "sgd",
        "lr": 0.2,
        "weight_decay": 5e-4,
        "shift": 3,
    },
}
