"""ShuffleNet V1 (arXiv 1707.01083) and V2 (arXiv 1807.11164) in their CIFAR forms: a 1x1 stem, no pooling after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capmismatch.architectures._layers import conv1x1, conv3x3, global_average, he_init, shuffle_channels
from capmismatch.architectures.registry import register

STEM = 24


class _UnitV1(nn.Module):
    """Grouped bottleneck; at stride 2 the pooled input is concatenated, else the input is added."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        self.groups = 1 if inputs == STEM else groups  # the stem's few channels are not grouped
        branch = outputs - inputs if stride == 2 else outputs
        inner = branch // 4
        self.conv1 = conv1x1(inputs, inner, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, branch, groups=groups)
        self.bn3 = nn.BatchNorm2d(branch)

    def forward(self, x: Tensor) -> Tensor:
        out = shuffle_channels(torch.relu(self.bn1(self.conv1(x))), self.groups)
        out = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(out)))))
        if self.stride == 2:
            return torch.relu(torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], 1))
        return torch.relu(out + x)


class CifarShuffleNetV1(nn.Module):
    """Stages of 4, 8, 4 units, 240/480/960 wide, three groups."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_channels, STEM)
        self.bn1 = nn.BatchNorm2d(STEM)
        inputs = STEM
        for index, (outputs, count) in enumerate(((240, 4), (480, 8), (960, 4)), start=1):
            units = (_UnitV1(outputs, outputs, stride=1, groups=3) for _ in range(count - 1))
            down = _UnitV1(inputs, outputs, stride=2, groups=3)
            setattr(self, f"layer{index}", nn.Sequential(down, *units))
            inputs = outputs
        self.linear = nn.Linear(inputs, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(global_average(self.layer3(self.layer2(self.layer1(x)))))


class _UnitV2(nn.Module):
    """Half of the channels pass by, the others go through a bottleneck; then both are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv3x3(half, half, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        past, through = x.chunk(2, dim=1)
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(through)))))
        return shuffle_channels(torch.cat([past, torch.relu(self.bn3(self.conv3(out)))], 1), 2)


class _DownV2(nn.Module):
    """Both branches see all channels and halve the side; together they make `outputs` channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = conv3x3(inputs, inputs, 2, groups=inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = conv1x1(inputs, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(inputs, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv3x3(half, half, 2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = torch.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(torch.relu(self.bn3(self.conv3(x)))))
        return shuffle_channels(torch.cat([left, torch.relu(self.bn5(self.conv5(right)))], 1), 2)


class CifarShuffleNetV2(nn.Module):
    """Stages of 4, 8, 4 units, 116/232/464 wide (x1), then 1024 channels."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_channels, STEM)
        self.bn1 = nn.BatchNorm2d(STEM)
        inputs = STEM
        for index, (outputs, count) in enumerate(((116, 4), (232, 8), (464, 4)), start=1):
            units = (_UnitV2(outputs) for _ in range(count - 1))
            setattr(self, f"layer{index}", nn.Sequential(_DownV2(inputs, outputs), *units))
            inputs = outputs
        self.conv2 = conv1x1(inputs, 1024)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(global_average(torch.relu(self.bn2(self.conv2(x)))))


@register("shufflenetv1")
def shufflenetv1(num_classes: int, in_channels: int) -> nn.Module:
    """ShuffleNet V1 with three groups, as in distillation papers."""
    return CifarShuffleNetV1(num_classes, in_channels)


@register("shufflenetv2")
def shufflenetv2(num_classes: int, in_channels: int) -> nn.Module:
    """ShuffleNet V2 x1, as in distillation papers."""
    return CifarShuffleNetV2(num_classes, in_channels)
