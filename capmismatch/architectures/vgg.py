"""VGG (Simonyan & Zisserman, arXiv 1409.1556) in the CIFAR form of distillation papers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capmismatch.architectures._layers import global_average, he_init
from capmismatch.architectures.registry import register
from capmismatch.errors import must_be_one_of

CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class CifarVGG(nn.Module):
    """Five blocks of convolutions with batch norm, max pooling after the first three, one linear layer."""

    block0: nn.Module
    block1: nn.Module
    block2: nn.Module
    block3: nn.Module
    block4: nn.Module

    def __init__(self, depth: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        must_be_one_of(depth, CONVOLUTIONS, "the depth of a VGG")
        inputs = in_channels
        for index, (count, width) in enumerate(zip(CONVOLUTIONS[depth], WIDTHS, strict=True)):
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [nn.Conv2d(inputs, width, kernel_size=3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            setattr(self, f"block{index}", nn.Sequential(*layers[:-1]))  # the last ReLU stands in `forward`
        self.classifier = nn.Linear(inputs, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        for block in (self.block0, self.block1, self.block2):
            x = F.max_pool2d(torch.relu(block(x)), 2)
        x = torch.relu(self.block4(torch.relu(self.block3(x))))
        return self.classifier(global_average(x))


@register("vgg{depth}", listed=tuple(f"vgg{depth}" for depth in CONVOLUTIONS))
def vgg(num_classes: int, in_channels: int, *, depth: int) -> nn.Module:
    """VGG with batch norm; vgg8 and vgg13 are the pair of distillation papers."""
    return CifarVGG(depth, num_classes, in_channels)
