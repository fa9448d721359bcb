"""Multi-layer perceptrons for tables and small images."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from capmismatch.architectures.registry import register


@register(
    "mlp{widths:x}",
    listed=("mlp16", "mlp32", "mlp48", "mlp48x48", "mlp128", "mlp128x128", "mlp512", "mlp512x512"),
    example={"in_features": 784},
)
def mlp(num_classes: int, *, widths: tuple[int, ...], in_features: int) -> nn.Module:
    """Flatten, then a linear layer and ReLU for each width, then a linear layer to the classes."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for index, width in enumerate(widths, start=1):
        layers[f"hidden{index}"] = nn.Linear(in_features, width)
        layers[f"relu{index}"] = nn.ReLU()
        in_features = width
    layers["linear"] = nn.Linear(in_features, num_classes)
    return nn.Sequential(layers)
