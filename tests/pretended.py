"""An accelerator that is only pretended: code for CUDA is run, and its devices are checked, where there is none.

Its tensors hold real numbers on the CPU, but say that they are elsewhere. As on CUDA, an operation that mixes them with
tensors of the CPU is an error, and so is `numpy()` without `cpu()`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

AWAY = "meta"  # torch keeps no numbers there, so whatever escapes the pretence has none
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class _Away(Tensor):
    """A tensor that says that it is on the pretended device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _Away:
        made = Tensor._make_wrapper_subclass(cls, held.size(), strides=held.stride(), dtype=held.dtype, device=AWAY)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, *_: Any) -> Any:
        raise AssertionError(f"{function} of a tensor from within Pretended, outside of it")


class Pretended(TorchDispatchMode):
    """While it is entered, the device `AWAY` can be used; in this thread."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        away = any(isinstance(tensor, _Away) for tensor in tensors)
        if away and function not in MOVES:
            assert all(isinstance(t, _Away) or t.ndim == 0 for t in tensors), f"{function} mixes devices"
        options = dict(kwargs or {})
        if options.get("device") is not None:
            away = torch.device(options["device"]) == torch.device(AWAY)
            options["device"] = "cpu"
        given = tree_map(lambda leaf: leaf.held if isinstance(leaf, _Away) else leaf, (args, options))
        found = function(*given[0], **given[1])
        if function._schema.is_mutable:  # in place
            return args[0]
        return tree_map(lambda leaf: _Away(leaf) if isinstance(leaf, Tensor) else leaf, found) if away else found
