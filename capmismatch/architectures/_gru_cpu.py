"""A layer of gated recurrent units on the CPU, with its gradient written by hand.

PyTorch builds a graph of a dozen nodes for each step of time, and for a small layer walking it back takes longer than
all the arithmetic. The gradient of a step is linear in that of its output, so here all factors of it are computed for
all steps at once, and three operations a step are left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Layer(torch.autograd.Function):
    r"""Outputs (T, B, H) of a layer that starts at 0, from its inputs (T, B, 3H), which are W x + b.

    With the gates in PyTorch's order, r, z, n, and g = U h + c:

    .. math:: r_t = \sigma(x^r_t + g^r_t), \quad z_t = \sigma(x^z_t + g^z_t), \quad
              n_t = \tanh(x^n_t + r_t g^n_t), \quad h_t = n_t + z_t (h_{t-1} - n_t)
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        steps, batch, width = inputs.shape[0], inputs.shape[1], weight.shape[1]
        outputs = inputs.new_zeros(steps + 1, batch, width)  # the first is the state before the first step
        gates = inputs[:, :, : 2 * width].clone(memory_format=torch.contiguous_format)  # r and z
        new = inputs[:, :, 2 * width :].clone(memory_format=torch.contiguous_format)  # n
        recurrent = inputs.new_empty(steps, batch, 3 * width)  # g
        transposed = weight.t().contiguous()
        states, of_n = outputs.unbind(), recurrent[:, :, 2 * width :].unbind()
        of_gates = recurrent[:, :, : 2 * width].unbind()
        per_step = (recurrent.unbind(), of_gates, of_n, gates.unbind(), gates[:, :, :width].unbind())
        for before, after, g, g_gates, g_n, both, r, z, n in zip(
            states[:-1], states[1:], *per_step, gates[:, :, width:].unbind(), new.unbind(), strict=True
        ):
            torch.addmm(bias, before, transposed, out=g)
            both.add_(g_gates).sigmoid_()
            n.addcmul_(r, g_n).tanh_()
            torch.lerp(n, before, z, out=after)
        ctx.save_for_backward(outputs, gates, new, recurrent, weight)
        return outputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs, gates, new, recurrent, weight = ctx.saved_tensors
        (after,), width = gradients, weight.shape[1]
        r, z = gates[:, :, :width], gates[:, :, width:].contiguous()
        before = outputs[:-1]
        # Of a step's output h to the inputs of its gates: what the gradient of h is multiplied by.
        to_n = (1 - z) * (1 - new * new)
        to_r = to_n * recurrent[:, :, 2 * width :] * r * (1 - r)
        to_z = (before - new) * z * (1 - z)
        factors = torch.stack([to_r, to_z, to_n * r], 2)  # (T, B, 3, H), of g
        of_g = torch.empty_like(factors)
        of_h = torch.empty_like(z)
        gradient = torch.zeros_like(z[0])
        steps = zip(
            after.unbind(),
            z.unbind(),
            factors.unbind(),
            of_g.unbind(),
            of_g.flatten(2).unbind(),
            of_h.unbind(),
            strict=True,
        )
        carried = gradient  # what comes back from the step after
        for given, keep, factor, g, g_flat, here in reversed(list(steps)):
            torch.add(given, carried, out=here)
            torch.mul(here[:, None], factor, out=g)
            carried = torch.addmm(here * keep, g_flat, weight)
        flat = of_g.flatten(2)
        of_inputs = torch.cat([flat[:, :, : 2 * width], of_h * to_n], 2)
        rows = flat.flatten(0, 1)
        return of_inputs, rows.t() @ before.flatten(0, 1), rows.sum(0)


def gru_layer(layer: nn.GRU, x: Tensor) -> Tensor:
    """Outputs (B, T, H) of a layer at inputs (B, T, I), as ``layer(x)[0]`` gives them, but for rounding.

    Parameters
    ----------
    layer : torch.nn.GRU
        Of one layer and one direction, with biases, batch first.
    x : Tensor, shape (B, T, I)
        On the CPU.

    Returns
    -------
    Tensor, shape (B, T, H)
        With a gradient of the first order.

    Examples
    --------
    >>> layer, x = nn.GRU(3, 4, batch_first=True), torch.randn(2, 5, 3)
    >>> bool(torch.allclose(gru_layer(layer, x), layer(x)[0], atol=1e-6))
    True
    """
    weights = dict(layer.named_parameters())
    inputs = nn.functional.linear(x.transpose(0, 1), weights["weight_ih_l0"], weights["bias_ih_l0"])
    outputs: Tensor = _Layer.apply(inputs.contiguous(), weights["weight_hh_l0"], weights["bias_hh_l0"])
    return outputs.transpose(0, 1)
