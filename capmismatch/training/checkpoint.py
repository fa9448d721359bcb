"""The state of an unfinished training in one file: tensors as safetensors, all else as JSON in its header."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from capmismatch._utils.files import replacing
from capmismatch.errors import BankError


class Part(Protocol):
    """What has a state to keep: networks, optimisers, schedulers."""

    def state_dict(self) -> dict[str, Any]:
        """What is to be kept."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take it back."""


class Checkpoint:
    """A file that is replaced every so often while something is trained, so that a kill costs little.

    Parameters
    ----------
    file : whole at any moment; its folder need not exist
    seconds : how long to wait between two savings; 0 saves after every step

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
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved >= self.seconds

    def save(self, parts: Mapping[str, Part], *, made_from: str, **place: Any) -> None:
        """Keep the state of all parts and how far the training is: nested mappings and lists of tensors and numbers."""
        state = {"place": place, "parts": {name: part.state_dict() for name, part in parts.items()}}
        tensors: dict[str, Tensor] = {}
        rest = json.dumps({"made_from": made_from, "state": _taken_apart(state, "", tensors)})
        with replacing(self.file) as temporary:
            save_file(tensors, temporary, metadata={"json": rest})
        self._saved = time.monotonic()

    def restore(self, parts: Mapping[str, Part], *, made_from: str) -> dict[str, Any] | None:
        """Give the parts their state back: how far the training was, or None where nothing has been kept.

        Raises
        ------
        BankError : the file is damaged, or was `made_from` something else
        """
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, "pt") as content:
                rest = json.loads(content.metadata()["json"])
                state = _put_together(rest["state"], content)
        except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
            raise BankError(f"{self.file} is damaged ({error}): remove it to train from the start") from None
        if rest["made_from"] != made_from:
            raise BankError(f"{self.file} was left by another training: remove it to train from the start")
        for name, part in parts.items():
            if isinstance(part, torch.optim.Optimizer):
                _lay_out_alike(part, state["parts"][name])
            part.load_state_dict(state["parts"][name])
        place: dict[str, Any] = state["place"]
        return place

    def remove(self) -> None:
        """Forget what was kept, once the training's result is kept elsewhere."""
        self.file.unlink(missing_ok=True)


class RandomNumbers:
    """The random numbers that networks draw themselves, as dropout does, as a part of a training's state."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def state_dict(self) -> dict[str, Any]:
        """States of PyTorch's generators."""
        on_gpu = {"gpu": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {}
        return {"cpu": torch.get_rng_state(), **on_gpu}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Draw on from there."""
        torch.set_rng_state(state_dict["cpu"])
        if "gpu" in state_dict:
            torch.cuda.set_rng_state(state_dict["gpu"], self.device)


def _taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with its tensors replaced by their names in `tensors`; mappings become lists, for JSON has text keys."""
    if isinstance(value, Tensor):
        # A copy of its own: safetensors takes neither tensors that share memory nor other orders in memory.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[key, _taken_apart(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_taken_apart(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
    return value


def _put_together(value: Any, content: Any) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return content.get_tensor(value["tensor"])
        return {key: _put_together(item, content) for key, item in value["items"]}
    if isinstance(value, list):
        return [_put_together(item, content) for item in value]
    return value


def _lay_out_alike(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Bring each tensor of an optimiser's state into the order in memory that its parameter has.

    Fused optimisers go through memory in order: a momentum in another layout would meet the wrong weights.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, own in state["state"].items():
        for name, tensor in own.items():
            if isinstance(tensor, Tensor) and tensor.shape == parameters[index].shape:
                own[name] = torch.empty_like(parameters[index], dtype=tensor.dtype).copy_(tensor)
