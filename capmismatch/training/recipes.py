"""How students are trained, in numbers: the recipe, and those that papers use, by name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from capmismatch.errors import InputError, must_be_one_of, must_be_positive

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("onecycle", "cosine", "step", "constant")
AUTOCAST = (None, "bfloat16", "float16")
# Younger than the first studies: at their defaults they are not told, so that hashes made without them stay.
_YOUNGER = ("keep_best", "patience", "autocast", "channels_last")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes
    ----------
    epochs, batch_size : the last, smaller batch of an epoch is used too
    optimizer : "adamw" or "sgd" (Nesterov momentum)
    lr : peak learning rate
    schedule : "onecycle" (PyTorch's, up for 30 % of the steps, then down; it moves the momentum, AdamW's first beta,
        between 0.95 and 0.85 meanwhile), "cosine", "step" (times 0.1 at each of `milestones`), "constant"; all but the
        first rise linearly over `warmup_epochs`
    milestones : epochs at which "step" drops
    warmup_epochs : over which the rate rises, but for "onecycle"
    weight_decay, momentum : as the optimiser takes them
    shift : images are moved by up to this many pixels each way, zeros filling in; the teacher does not see it
    keep_best : measure validation accuracy after every epoch, and end with the weights of the (first) best
    patience : with `keep_best`, stop after this many epochs without a better one; 0 goes on to the end
    autocast : "bfloat16" or "float16" (with scaled gradients): let torch run in half precision what it deems safe
    channels_last : images and convolutions lie in memory channel by channel: faster, rounded otherwise
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

    def __post_init__(self) -> None:
        must_be_one_of(self.optimizer, OPTIMIZERS, "optimizer")
        must_be_one_of(self.schedule, SCHEDULES, "schedule")
        must_be_one_of(self.autocast, AUTOCAST, "autocast")
        for name, least in {"epochs": 1, "batch_size": 1, "warmup_epochs": 0, "shift": 0, "patience": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"expected {name} a whole number >= {least}, got {value!r}")
        must_be_positive(self.lr, "lr")
        if self.patience and not self.keep_best:
            raise InputError(f"patience waits for a better epoch: set keep_best too, got patience={self.patience}")

    @classmethod
    def named(cls, name: str, **changes: Any) -> Recipe:
        """A recipe by name, with changes.

        Parameters
        ----------
        name : "cifar240", that of distillation papers on CIFAR (arXiv 1910.10699 and its descendants), after a warm-up
            of 5 epochs; or "cifar5", a short one for a CPU, which brings a ResNet-8 to about 70 % on CIFAR-10
        changes : of any attribute. Where `epochs` changes, milestones and warm-up keep their share of them.

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
            own = values[key]
            values[key] = tuple(round(m * share) for m in own) if isinstance(own, tuple) else round(own * share)
        return cls(**{**values, **changes})

    def told(self) -> dict[str, Any]:
        """What decides a training's result, for hashes and to read: all but younger options at their defaults."""
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        return {key: value for key, (value, default) in values.items() if key not in _YOUNGER or value != default}

    def __repr__(self) -> str:
        return f"Recipe({', '.join(f'{key}={value!r}' for key, value in self.told().items())})"


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
