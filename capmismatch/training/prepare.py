"""Raw inputs as students take them."""

from __future__ import annotations

import torch
from torch import Tensor


class Prepare:
    """Raw inputs as students take them: images (n, H, W, C) as (n, C, H, W), uint8 in [0, 1]; (x - center) / scale."""

    def __init__(self, center: tuple[float, ...], scale: tuple[float, ...]) -> None:
        self.center, self.scale = torch.tensor(center), torch.tensor(scale)

    def __call__(self, x: Tensor) -> Tensor:
        """Prepare one batch."""
        if x.ndim == 4:
            top = 255 if x.dtype == torch.uint8 else 1
            x = x.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last) / top
            return (x - self.center.to(x.device).view(1, -1, 1, 1)) / self.scale.to(x.device).view(1, -1, 1, 1)
        return (x.to(torch.float32) - self.center.to(x.device)) / self.scale.to(x.device)
