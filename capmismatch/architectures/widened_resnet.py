"""The widened CIFAR ResNets of distillation papers: resnet8x4, resnet32x4 and kin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from capmismatch.architectures._layers import conv1x1, conv3x3, global_average, he_init
from capmismatch.architectures.registry import check_depth, register


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.downsample(x))


class WidenedResNet(nn.Module):
    """A CIFAR ResNet of depth 6n+2 with stages 16k/32k/64k wide, shortcuts of option B (1x1 convolutions).

    The stem is 16 wide up to k = 2 and 8k beyond, as in the public code of contrastive representation distillation
    (arXiv 1910.10699) and its descendants.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(self, depth: int, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        n = check_depth(depth, 6, 2, "a widened CIFAR ResNet")
        inputs = max(16, 8 * width)
        self.conv1 = conv3x3(in_channels, inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        for index, (base, stride) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
            outputs = base * width
            further = (_Block(outputs, outputs, 1) for _ in range(n - 1))
            setattr(self, f"layer{index}", nn.Sequential(_Block(inputs, outputs, stride), *further))
            inputs = outputs
        self.fc = nn.Linear(inputs, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(global_average(self.layer3(self.layer2(self.layer1(x)))))


@register(
    "resnet{depth}x{width}",
    listed=(*(f"resnet{depth}x1" for depth in (8, 20, 32, 56, 110)), "resnet8x4", "resnet20x4", "resnet32x4"),
)
def widened_resnet(num_classes: int, in_channels: int, *, depth: int, width: int) -> nn.Module:
    """The ResNets of distillation papers; ``x1`` are what they call resnet20, resnet56 and so on."""
    return WidenedResNet(depth, width, num_classes, in_channels)
