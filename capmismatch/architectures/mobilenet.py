"""MobileNetV2 (Sandler et al., arXiv 1801.04381) in the CIFAR form of distillation papers."""

from __future__ import annotations

from torch import Tensor, nn

from capmismatch.architectures._layers import conv1x1, conv3x3, global_average, he_init
from capmismatch.architectures.registry import register
from capmismatch.errors import must_be_positive

STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *_activated(conv1x1(inputs, inner)),
            *_activated(conv3x3(inner, inner, stride, groups=inner)),
            conv1x1(inner, outputs),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def _activated(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())


class CifarMobileNetV2(nn.Module):
    """Stem of stride 2, seven stages of inverted residuals down to 1/16 of the side, one linear layer."""

    def __init__(self, width: float, num_classes: int, in_channels: int) -> None:
        super().__init__()
        inputs = int(32 * width)
        self.conv1 = _activated(conv3x3(in_channels, inputs, stride=2))
        self.blocks = nn.ModuleList()
        for expansion, channels, count, stride in STAGES:
            outputs = int(channels * width)
            layers = []
            for i in range(count):
                layers.append(_InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion))
                inputs = outputs
            self.blocks.append(nn.Sequential(*layers))
        last = int(1280 * max(1.0, width))
        self.conv2 = _activated(conv1x1(inputs, last))
        self.classifier = nn.Sequential(nn.Linear(last, num_classes))
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = self.conv1(x)
        for stage in self.blocks:
            x = stage(x)
        return self.classifier(global_average(self.conv2(x)))


@register("mobilenetv2")
def mobilenetv2(num_classes: int, in_channels: int, *, width: float = 0.5) -> nn.Module:
    """MobileNetV2 with plain ReLUs; `width` multiplies all channels but the last (0.5 in distillation papers)."""
    must_be_positive(width, "width")
    return CifarMobileNetV2(width, num_classes, in_channels)
