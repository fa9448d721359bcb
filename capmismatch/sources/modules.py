"""Networks that are in memory, as teachers: ``load_family({"small": net, "large": other}, mean=[...], std=[...])``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from capmismatch._utils.code import code_hash
from capmismatch._utils.files import hash_of
from capmismatch.architectures import count_parameters
from capmismatch.errors import InputError
from capmismatch.sources._weights import hash_network
from capmismatch.sources.families import Teacher
from capmismatch.training.prepare import Normalise


def load(
    modules: Mapping[str, nn.Module],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    prepare: Callable[[Any], Tensor] | None = None,
) -> tuple[list[Teacher], None]:
    """Make teachers of networks; the networks themselves stay as they are, and go on training if you like.

    Parameters
    ----------
    modules : mapping of str to torch.nn.Module
        Each teacher's name and its network.
    mean : sequence of float, optional
        Subtracted from images in [0, 1], or from other inputs as they are: one number per channel, or one for all.
    std : sequence of float, optional
        What the difference is divided by.
    prepare : callable, optional
        Instead of `mean` and `std`: from a batch of raw inputs (n, ...) to the tensor that the networks take.

    Returns
    -------
    tuple of list of Teacher, and None
        The teachers; no data set comes with them.

    Raises
    ------
    InputError
        If a value is no network, two networks have one name, or `prepare` comes with `mean` or `std`.
    """
    if prepare is not None and (mean is not None or std is not None):
        raise InputError("expected prepare, or mean and std, got both: prepare alone says how inputs are prepared")
    names = [str(name) for name in modules]
    if not names or len(set(names)) < len(names):
        raise InputError(f"expected networks under distinct names, got {list(modules)}")
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise InputError(
                f"expected a torch.nn.Module as teacher {str(name)!r}, got {type(module).__name__}; arrays of logits "
                "go to cm.bank_from_arrays"
            )
    prepared = Normalise(mean, std) if prepare is None else prepare
    told = repr(prepared) if prepare is None else hash_of([getattr(prepare, "__qualname__", ""), code_hash(prepare)])
    teachers = []
    for name, module in modules.items():
        weights = hash_network(module)
        teachers.append(
            Teacher(
                family="modules",
                name=str(name),
                params=count_parameters(module),
                source=f"{type(module).__name__} in memory",
                weights_hash=weights,
                preprocessing=told,
                module=InMemory(module, weights, str(name)),
                prepare=prepared,
                built_by=hash_of([repr(module), code_hash(type(module))]),
            )
        )
    return teachers, None


@dataclass(frozen=True)
class InMemory:
    """Makes a copy of a network to run, so that the network keeps its mode and its gradients.

    Attributes
    ----------
    network : torch.nn.Module
        The network itself.
    weights : str
        Hash of its weights when it was loaded, which the copy shall have.
    name : str
        Of the teacher, for messages.
    """

    network: nn.Module
    weights: str
    name: str

    def __call__(self) -> nn.Module:
        """The copy, in eval mode."""
        if hash_network(self.network) != self.weights:
            raise InputError(
                f"the weights of teacher {self.name!r} have changed since load_family: load the family again"
            )
        try:
            return copy.deepcopy(self.network).eval()
        except RuntimeError as error:  # of parts that torch cannot copy, such as weights made again in every pass
            raise InputError(
                f"teacher {self.name!r} cannot be copied ({str(error).splitlines()[0]}): save its state_dict, and load "
                "that by 'ckpt:FILE' with a builder"
            ) from None
