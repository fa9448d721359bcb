"""Size of a network: parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Count the parameters, trainable or frozen: shared weights once, buffers (such as running means) not at all.

    Parameters
    ----------
    model : torch.nn.Module
        Any network; it may lie on the meta device.

    Returns
    -------
    int
        How many numbers training fits.

    See Also
    --------
    count_macs : count its multiply-accumulates.

    Examples
    --------
    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Count the multiply-accumulates of one forward pass of one example.

    Counted are convolutions, linear and recurrent layers and matrix products (so attention too): half of what
    `torch.utils.flop_counter` reports. Not counted are biases, normalisations, activations, pooling and additions,
    which papers leave out as well. The model runs in evaluation mode on zeros and is left as it was.

    Parameters
    ----------
    model : torch.nn.Module
        Takes one tensor with a leading batch axis.
    input_shape : tuple of int
        Of one example, without the batch axis, such as ``(3, 32, 32)``. A model that begins with an embedding gets
        whole numbers of that shape.

    Returns
    -------
    int
        Multiply-accumulates for one example.

    See Also
    --------
    count_parameters : count its parameters.

    Examples
    --------
    >>> count_macs(nn.Conv2d(3, 8, kernel_size=3, padding=1), (3, 32, 32)) == 32 * 32 * 3 * 3 * 3 * 8
    True
    """
    first = next(iter(model.parameters()), torch.zeros(()))
    leaves = (module for module in model.modules() if next(module.parameters(recurse=False), None) is not None)
    dtype = torch.int64 if isinstance(next(leaves, None), nn.Embedding) else first.dtype
    example = torch.zeros((1, *input_shape), device=first.device, dtype=dtype)
    # Fused attention hides its matrix products from the counter: the plain path shows them all.
    with _evaluation(model), _plain_attention(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example)
    return counter.get_total_flops() // 2


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode


@contextmanager
def _plain_attention() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
