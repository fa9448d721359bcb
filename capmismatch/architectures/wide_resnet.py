"""WideResNets (Zagoruyko & Komodakis, arXiv 1605.07146) for CIFAR."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from capmismatch.architectures._layers import conv1x1, conv3x3, global_average, he_init
from capmismatch.architectures.registry import check_depth, register


class _Block(nn.Module):
    """Pre-activation block; where the width changes, the shortcut is a convolution of the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.convShortcut = conv1x1(inputs, outputs, stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        activated = torch.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        return shortcut + self.conv2(torch.relu(self.bn2(self.conv1(activated))))


class _Stage(nn.Module):
    def __init__(self, n: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(_Block(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1) for i in range(n))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """A WideResNet of depth 6n+4 with stages 16k/32k/64k wide.

    Parameter names are `layer1`..`layer3` and `linear`; state dicts that call them `block1`..`block3` and `fc` (the
    other naming in circulation) load as well.
    """

    def __init__(self, depth: int, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        n = check_depth(depth, 6, 4, "a WideResNet")
        self.conv1 = conv3x3(in_channels, 16)
        self.layer1 = _Stage(n, 16, 16 * width, 1)
        self.layer2 = _Stage(n, 16 * width, 32 * width, 2)
        self.layer3 = _Stage(n, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.linear = nn.Linear(64 * width, num_classes)
        he_init(self)
        self.register_load_state_dict_pre_hook(_accept_other_names)

    @staticmethod
    def own_name(name: str) -> str:
        """The name that a weight has here, of the name that it has in a state dict."""
        for theirs, ours in (("block", "layer"), ("fc.", "linear.")):
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return name

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.linear(global_average(torch.relu(self.bn1(x))))


def _accept_other_names(module: WideResNet, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for key in list(state_dict):
        if key.startswith(prefix):
            state_dict[prefix + module.own_name(key.removeprefix(prefix))] = state_dict.pop(key)


USUAL = ((10, 1), (16, 1), (28, 1), (40, 1), (16, 2), (28, 2), (40, 2), (16, 4), (28, 4), (28, 10))


@register("wrn{depth}-{width}")  # as many checkpoint files are named
@register(
    "wrn-{depth}-{width}",
    listed=tuple(f"wrn-{depth}-{width}" for depth, width in USUAL),
)
def wide_resnet(num_classes: int, in_channels: int, *, depth: int, width: int) -> nn.Module:
    """WideResNet of the given depth and widening factor, without dropout."""
    return WideResNet(depth, width, num_classes, in_channels)
