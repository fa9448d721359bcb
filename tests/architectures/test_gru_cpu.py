"""The recurrent layer whose gradient is written by hand: held against PyTorch's own, and against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from capmismatch import architectures
from capmismatch.architectures._gru_cpu import gru_layer


def gradients(layer: nn.GRU, x: Tensor, outputs: Tensor, weights: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((outputs * weights).sum(), [x, *layer.parameters()]))


@pytest.mark.parametrize(("batch", "steps", "inputs", "width"), [(3, 7, 5, 4), (1, 1, 2, 3), (16, 64, 16, 16)])
def test_outputs_and_gradients_are_those_of_pytorch(batch: int, steps: int, inputs: int, width: int) -> None:
    torch.manual_seed(0)
    layer = nn.GRU(inputs, width, batch_first=True)
    x = torch.randn(batch, steps, inputs, requires_grad=True)
    weights = torch.randn(batch, steps, width)
    expected, got = layer(x)[0], gru_layer(layer, x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(gradients(layer, x, got, weights), gradients(layer, x, expected, weights), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    layer = nn.GRU(3, 4, batch_first=True).double()
    x = torch.randn(2, 5, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: gru_layer(layer, x), (x, *layer.parameters()))


def test_a_model_gives_the_same_logits_with_a_gradient_and_without() -> None:
    torch.manual_seed(0)
    network = architectures.build("gru8", num_classes=20)
    tokens = torch.randint(20, (4, 9))
    with torch.inference_mode():
        expected = network(tokens)
    logits = network(tokens)
    torch.testing.assert_close(logits.detach(), expected, rtol=1e-5, atol=1e-6)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with torch.autocast("cpu", torch.bfloat16):  # PyTorch's own loop, which knows half precision
        half = network(tokens)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.05)
