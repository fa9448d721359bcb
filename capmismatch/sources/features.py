"""What a network's last linear layer reads, or another layer that is named gives: taken by a hook in the same pass."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from capmismatch.data.feature_files import LARGEST, as_stored
from capmismatch.data.token_inputs import TokenBatch
from capmismatch.errors import InputError, must_be_one_of


class FeatureTap:
    """Hooks on a network that hold the features of its latest pass; they are removed with the context.

    The last linear layer is the one that is called last in a pass, not the one that was defined last: heads that are
    there for training alone are not called.

    Parameters
    ----------
    network : torch.nn.Module
        Whose passes are looked into.
    layer : str
        Whose output are the features, by its name in ``network.named_modules()``; "" for what the last linear layer
        reads.
    key : str
        Of the teacher, for messages.

    Raises
    ------
    InputError
        The network has no such layer, or no linear one.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> with FeatureTap(network, "", "small") as tap, torch.inference_mode():
    ...     logits = network(torch.ones(4, 3))
    ...     features = tap.rows(torch.zeros(4))
    >>> features.shape
    torch.Size([4, 5])
    """

    def __init__(self, network: nn.Module, layer: str, key: str) -> None:
        modules = {name: module for name, module in network.named_modules() if name}
        self.key, self.layer = key, layer
        self._seen: Any = None
        if layer:
            must_be_one_of(layer, modules, f"feature_layer of teacher {key}")
            self._handles = [modules[layer].register_forward_hook(self._keep_output)]
            return
        linear = [module for module in modules.values() if isinstance(module, nn.Linear)]
        if isinstance(network, nn.Linear):
            linear.append(network)
        if not linear:
            raise InputError(
                f"teacher {key} has no linear layer whose input could be its features: name a layer with "
                f"feature_layer, such as {list(modules)[-3:]}"
            )
        self._handles = [module.register_forward_hook(self._keep_input) for module in linear]

    def __enter__(self) -> FeatureTap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep_input(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._seen = inputs[0] if inputs else None

    def _keep_output(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        output = output[0] if isinstance(output, tuple) and output else output
        # A copy: the next layer may compute in place.
        self._seen = output.clone() if isinstance(output, Tensor) else output

    def rows(self, raw: Any) -> Tensor:
        """Features (n, D), float32, of the rows of the batch that has just passed.

        Places of an image (n, D, H, W), and tokens of an image (n, T, D), are averaged; of windows of text there is a
        row for each position that is one.
        """
        seen, self._seen = self._seen, None
        if not isinstance(seen, Tensor) or not seen.is_floating_point():
            what = f"layer {self.layer!r}" if self.layer else "the last linear layer"
            raise InputError(f"{what} of teacher {self.key} took no part in a pass with a tensor: name another layer")
        if isinstance(raw, TokenBatch):
            if seen.ndim != 3 or seen.shape[:2] != raw.windows.shape:
                raise InputError(
                    f"expected features of every position of a text, {(*raw.windows.shape, 'D')}, got shape "
                    f"{tuple(seen.shape)} from teacher {self.key}"
                )
            return seen.flatten(0, 1)[torch.from_numpy(raw.flat).to(seen.device)].float()
        if seen.ndim == 4:
            seen = seen.float().mean(dim=(2, 3))
        elif seen.ndim == 3:
            seen = seen.float().mean(dim=1)
        if seen.ndim != 2 or len(seen) != len(raw):
            raise InputError(
                f"expected features of {len(raw)} rows from teacher {self.key}, got shape {tuple(seen.shape)}: name "
                "another layer with feature_layer"
            )
        return seen.float()


def half_rows(features: Tensor, place: str, first_row: int) -> NDArray[np.float16]:
    """What `capmismatch.data.feature_files.as_stored` makes of features (n, D), by torch, which is quicker.

    Raises
    ------
    InputError
        Where one is too large for float16, infinite or NaN.
    """
    if features.numel():
        low, high = (float(end) for end in features.aminmax())  # NaN where there is one
        if not (low >= -LARGEST and high <= LARGEST):
            return as_stored(features.cpu().numpy(), place, first_row)  # raises, and says where
    halves: NDArray[np.float16] = features.to(torch.float16).cpu().numpy()
    return halves
