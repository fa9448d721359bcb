"""The state of an unfinished training in one file: tensors as safetensors, all else as JSON in its header."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from capmismatch._utils.files import replacing
from capmismatch.errors import BankError


class Stateful(Protocol):
    """Anything with a state to save: networks, optimisers, schedulers."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take on a state."""


class Checkpoint:
    """A file that is replaced every so often during a training, so that a kill costs little.

    Parameters
    ----------
    file : str or path
        Complete at any moment. Its folder need not exist.
    seconds : float, default 60
        Time between two savings; 0 saves after every step.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint = Checkpoint(Path(folder) / "state.safetensors")
    ...     checkpoint.save({"network": torch.nn.Linear(2, 1)}, made_from="a recipe", step=3)
    ...     checkpoint.restore({"network": torch.nn.Linear(2, 1)}, made_from="a recipe")
    {'step': 3}
    """

    def __init__(self, file: str | os.PathLike[str], seconds: float = 60.0) -> None:
        self.file, self.seconds = Path(file), seconds
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved_at >= self.seconds

    def save(self, modules: Mapping[str, Stateful], *, made_from: str, **progress: Any) -> None:
        """Save the states of all modules, and how far the training is.

        Parameters
        ----------
        modules : mapping of str to Stateful
            What has a state, by name.
        made_from : str
            A hash of all that decides the training; `restore` asks for the same.
        **progress : Any
            Numbers, text, tensors, and mappings and lists of these.
        """
        state = {"place": progress, "parts": {name: module.state_dict() for name, module in modules.items()}}
        tensors: dict[str, Tensor] = {}
        header = json.dumps({"made_from": made_from, "state": _without_tensors(state, "", tensors)})
        with replacing(self.file) as temporary:
            save_file(tensors, temporary, metadata={"json": header})
        self._saved_at = time.monotonic()

    def restore(self, modules: Mapping[str, Stateful], *, made_from: str) -> dict[str, Any] | None:
        """Give the modules their saved states back.

        Parameters
        ----------
        modules : mapping of str to Stateful
            As they were saved, by name.
        made_from : str
            As it was saved.

        Returns
        -------
        dict or None
            The progress that was saved; None where there is no file.

        Raises
        ------
        BankError
            The file is damaged, or was `made_from` something else.
        """
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, "pt") as content:
                header = json.loads(content.metadata()["json"])
                state = _with_tensors(header["state"], content)
        except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
            raise BankError(f"{self.file} is damaged ({error}): remove it to train from the start") from None
        if header["made_from"] != made_from:
            raise BankError(f"{self.file} was left by another training: remove it to train from the start")
        for name, module in modules.items():
            if isinstance(module, torch.optim.Optimizer):
                _match_memory_layout(module, state["parts"][name])
            module.load_state_dict(state["parts"][name])
        progress: dict[str, Any] = state["place"]
        return progress

    def peek(self) -> tuple[int, int]:
        """The epoch and step that were saved, without the tensors; (0, 0) where `restore` finds none to go on from."""
        try:
            with safe_open(self.file, "pt") as content:
                place = dict(json.loads(content.metadata()["json"])["state"]["items"])["place"]
            progress = dict(place["items"])
            return int(progress["epoch"]), int(progress["step"])
        except (SafetensorError, ValueError, KeyError, TypeError, OSError):
            return 0, 0

    def remove(self) -> None:
        """Delete the file, once the training's result is saved elsewhere."""
        self.file.unlink(missing_ok=True)


@dataclass
class TrainingState:
    """An unfinished training: everything that a checkpoint saves and restores.

    Attributes
    ----------
    modules : dict of str to Stateful
        The network, the optimiser, and whatever else has a state.
    made_from : str
        A hash of all that decides the training.
    device : torch.device
        Where the loss is summed, so that no step waits for the device.
    epoch : int
        Counted from 0.
    step : int
        How many steps of this epoch are done.
    loss_sum : Tensor
        Sum of the loss over the rows of these steps, float64.
    """

    modules: dict[str, Stateful]
    made_from: str
    device: torch.device
    epoch: int = 0
    step: int = 0
    loss_sum: Tensor = field(init=False)
    _best: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, if there is one: after the last step that it saw."""
        progress = checkpoint.restore(self.modules, made_from=self.made_from)
        if progress is not None:
            self.epoch, self.step, self._best = progress["epoch"], progress["step"], progress["best"]
            self.loss_sum = progress["total"].to(self.device)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint."""
        progress = {"epoch": self.epoch, "step": self.step, "total": self.loss_sum, "best": self._best}
        checkpoint.save(self.modules, made_from=self.made_from, **progress)

    def start_epoch(self, epoch: int) -> None:
        """Begin an epoch, unless a checkpoint was restored from the middle of it."""
        if epoch != self.epoch:
            self.epoch, self.step, self.loss_sum = epoch, 0, torch.zeros_like(self.loss_sum)

    def end_step(self, loss: Tensor, rows: int) -> None:
        """Count a step with its loss, the mean over some rows."""
        self.step += 1
        self.loss_sum += loss.detach().double() * rows

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights are kept; -1 before there is one."""
        return int(self._best.get("epoch", -1))

    def keep_if_best(self, score: float, network: nn.Module) -> None:
        """Keep a copy of the weights if no earlier epoch had this score or a better one."""
        if not self._best or score > self._best["score"]:
            weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            self._best = {"score": score, "epoch": self.epoch, "weights": weights}

    def load_best(self, network: nn.Module) -> None:
        """Give the network the weights of the best epoch, where any were kept."""
        if self._best:
            network.load_state_dict(self._best["weights"])


class RandomNumbers:
    """PyTorch's random number generators, from which layers such as dropout draw, as something with a state."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def state_dict(self) -> dict[str, Any]:
        """Return the generators' states."""
        gpu = {"gpu": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {}
        return {"cpu": torch.get_rng_state(), **gpu}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the generators' states."""
        torch.set_rng_state(state_dict["cpu"])
        if "gpu" in state_dict:
            torch.cuda.set_rng_state(state_dict["gpu"], self.device)


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with its tensors replaced by their names in `tensors`; mappings become lists, as JSON has text keys."""
    if isinstance(value, Tensor):
        # A copy: safetensors takes neither tensors that share memory nor other orders in memory.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[key, _without_tensors(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_without_tensors(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
    return value


def _with_tensors(value: Any, content: Any) -> Any:
    """The inverse of `_without_tensors`, with the tensors of an open file."""
    if isinstance(value, dict):
        if "tensor" in value:
            return content.get_tensor(value["tensor"])
        return {key: _with_tensors(item, content) for key, item in value["items"]}
    if isinstance(value, list):
        return [_with_tensors(item, content) for item in value]
    return value


def _match_memory_layout(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Bring each tensor of an optimiser's state into the order in memory that its parameter has.

    Fused optimisers go through memory in order: a momentum in another layout would meet the wrong weights.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, buffers in state["state"].items():
        for name, tensor in buffers.items():
            if isinstance(tensor, Tensor) and tensor.shape == parameters[index].shape:
                buffers[name] = torch.empty_like(parameters[index], dtype=tensor.dtype).copy_(tensor)
