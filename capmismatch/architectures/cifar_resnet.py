"""He et al.'s CIFAR ResNets, and a variant with a 64-wide stem."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capmismatch.architectures._layers import conv1x1, conv3x3, global_average, he_init
from capmismatch.architectures.registry import check_depth, register

DEPTHS = (8, 14, 20, 26, 32, 44, 56, 110)
WIDTHS = (16, 32, 64)


class _PadShortcut(nn.Module):
    """Every second row and column, and zeros for the channels that are missing, half before and half after."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.missing = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2))


def _pad_shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Sequential() if stride == 1 and inputs == outputs else _PadShortcut(inputs, outputs)


def _conv_shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: nn.Module, relu_after: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut
        self.relu_after = relu_after

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.shortcut(x)
        return torch.relu(out) if self.relu_after else out


class CifarResNet(nn.Module):
    """Stem, three stages of basic blocks of widths 16/32/64, average pooling, one linear layer.

    Parameters
    ----------
    depth : int
        6n+2, with n blocks per stage.
    num_classes : int
        Output columns.
    in_channels : int
        Input channels.
    stem : int
        Width of the first convolution.
    shortcut : callable
        Makes a block's shortcut from (inputs, outputs, stride).
    relu_after_block : bool
        Whether each block ends in a ReLU; if not, each stage does.
    pool : int or None
        Side of the average pooling before the linear layer (inputs of 32x32); None pools everything.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(
        self,
        depth: int,
        num_classes: int,
        in_channels: int,
        *,
        stem: int,
        shortcut: Callable[[int, int, int], nn.Module],
        relu_after_block: bool,
        pool: int | None,
    ) -> None:
        super().__init__()
        n = check_depth(depth, 6, 2, "a CIFAR ResNet")
        self.pool = pool
        self.conv1 = conv3x3(in_channels, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        inputs = stem
        for index, (width, stride) in enumerate(zip(WIDTHS, (1, 2, 2), strict=True), start=1):
            blocks = []
            for i in range(n):
                step = stride if i == 0 else 1
                blocks.append(_Block(inputs, width, step, shortcut(inputs, width, step), relu_after_block))
                inputs = width
            setattr(self, f"layer{index}", nn.Sequential(*blocks))
        positions = 1 if pool is None else (8 // pool) ** 2
        self.linear = nn.Linear(inputs * positions, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = torch.relu(stage(x))  # after blocks that end in a ReLU this changes nothing
        return self.linear(global_average(x) if self.pool is None else F.avg_pool2d(x, self.pool).flatten(1))


@register("cifar_resnet{depth}", listed=tuple(f"cifar_resnet{depth}" for depth in DEPTHS))
def cifar_resnet(num_classes: int, in_channels: int, *, depth: int) -> nn.Module:
    """He et al.'s ResNet for CIFAR (arXiv 1512.03385, section 4.2); shortcuts of option A have no weights."""
    return CifarResNet(
        depth, num_classes, in_channels, stem=16, shortcut=_pad_shortcut, relu_after_block=True, pool=None
    )


@register("cifar_resnet{depth}_stem64", listed=tuple(f"cifar_resnet{depth}_stem64" for depth in DEPTHS[:6]))
def cifar_resnet_stem64(num_classes: int, in_channels: int, *, depth: int) -> nn.Module:
    """A variant in circulation: 64-wide stem, convolutions as shortcuts, one ReLU a stage, 4x4 pooling (32x32 only)."""
    return CifarResNet(
        depth, num_classes, in_channels, stem=64, shortcut=_conv_shortcut, relu_after_block=False, pool=4
    )
