"""ResNeXt (Xie et al., arXiv 1611.05431) in its CIFAR form."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from capmismatch.architectures._layers import conv1x1, conv3x3, global_average, he_init
from capmismatch.architectures.registry import check_depth, register


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, inner: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv_reduce = conv1x1(inputs, inner)
        self.bn_reduce = nn.BatchNorm2d(inner)
        self.conv_conv = conv3x3(inner, inner, stride, groups)
        self.bn = nn.BatchNorm2d(inner)
        self.conv_expand = conv1x1(inner, outputs)
        self.bn_expand = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut.add_module("shortcut_conv", conv1x1(inputs, outputs, stride))
            self.shortcut.add_module("shortcut_bn", nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn_reduce(self.conv_reduce(x)))
        out = torch.relu(self.bn(self.conv_conv(out)))
        return torch.relu(self.bn_expand(self.conv_expand(out)) + self.shortcut(x))


class CifarResNeXt(nn.Module):
    """Three stages of n bottlenecks (depth 9n+2), 256/512/1024 wide.

    The first stage has `groups` paths of `width` channels; both later stages double the width. Parameter
    names are those of the public CIFAR checkpoints.
    """

    stage_1: nn.Module
    stage_2: nn.Module
    stage_3: nn.Module

    def __init__(self, depth: int, groups: int, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        n = check_depth(depth, 9, 2, "a CIFAR ResNeXt")
        self.conv_1_3x3 = conv3x3(in_channels, 64)
        self.bn_1 = nn.BatchNorm2d(64)
        inputs = 64
        for index, stride in enumerate((1, 2, 2)):
            outputs, inner = 256 * 2**index, groups * width * 2**index
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for i in range(n):
                blocks[f"stage_{index + 1}_bottleneck_{i}"] = _Bottleneck(
                    inputs if i == 0 else outputs, outputs, inner, stride if i == 0 else 1, groups
                )
            setattr(self, f"stage_{index + 1}", nn.Sequential(blocks))
            inputs = outputs
        self.classifier = nn.Linear(inputs, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = torch.relu(self.bn_1(self.conv_1_3x3(x)))
        return self.classifier(global_average(self.stage_3(self.stage_2(self.stage_1(x)))))


@register(
    "resnext{depth}_{groups}x{width}d",
    listed=tuple(f"resnext29_{groups}x{width}d" for groups in (4, 8) for width in (4, 16, 32, 64)),
)
def resnext(num_classes: int, in_channels: int, *, depth: int, groups: int, width: int) -> nn.Module:
    """ResNeXt for CIFAR, such as resnext29_8x64d."""
    return CifarResNeXt(depth, groups, width, num_classes, in_channels)
