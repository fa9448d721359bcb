"""Probes of the raw logits: their size and spread. None depends on the temperature.

All take logits (N, C) and labels (N,) and return a float64 tensor (N,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from capmismatch._numerics.softmax import Softened
from capmismatch.probes._registry import per_example


@per_example(
    "std of f over classes, ddof 0", "Chi et al. 2023 (NormKD); Sun et al. 2024, arXiv 2403.01427", 0, tempered=False
)
def logit_std(softened: Softened) -> Tensor:
    """Population standard deviation of an example's logits over all classes.

    Examples
    --------
    >>> logit_std([[1.0, -1.0]], [0])
    tensor([1.], dtype=torch.float64)
    """
    return softened.raw.logit_std


@per_example("||f - mean f||_2", "logit norm; the mean is taken out because softmax ignores it", 0, tempered=False)
def logit_norm(softened: Softened) -> Tensor:
    """Euclidean norm of an example's logits around their mean.

    Examples
    --------
    >>> logit_norm([[4.0, 1.0, 1.0]], [0]).round(decimals=3)
    tensor([2.4490], dtype=torch.float64)
    """
    return softened.raw.logit_std * (softened.wrong_classes + 1) ** 0.5


@per_example("mean of f over classes", "drift that makes ATS depend on the centring", 0, tempered=False)
def mean_logit(softened: Softened) -> Tensor:
    """Mean logit of an example: softmax ignores it, ATS and ISATS without centring do not.

    Examples
    --------
    >>> mean_logit([[4.0, 1.0, 1.0]], [0])
    tensor([2.], dtype=torch.float64)
    """
    return softened.raw.mean_logit


@per_example("max f - mean f", "largest logit around the mean", 0, tempered=False)
def max_logit(softened: Softened) -> Tensor:
    """Largest logit, measured from the example's mean logit.

    Examples
    --------
    >>> max_logit([[4.0, 1.0, 1.0]], [1])
    tensor([2.], dtype=torch.float64)
    """
    return torch.maximum(softened.raw.target_logit, softened.raw.max_wrong_logit) - softened.raw.mean_logit


@per_example("f_y - mean f", "target logit around the mean", 0, tempered=False)
def target_logit(softened: Softened) -> Tensor:
    """The target's logit, measured from the example's mean logit.

    Examples
    --------
    >>> target_logit([[4.0, 1.0, 1.0]], [1])
    tensor([-1.], dtype=torch.float64)
    """
    return softened.raw.target_logit - softened.raw.mean_logit


@per_example("max over wrong classes of f - mean f", "largest wrong logit around the mean", 0, tempered=False)
def max_wrong_logit(softened: Softened) -> Tensor:
    """The largest wrong logit, measured from the example's mean logit.

    Examples
    --------
    >>> max_wrong_logit([[4.0, 1.0, 1.0]], [0])
    tensor([-1.], dtype=torch.float64)
    """
    return softened.raw.max_wrong_logit - softened.raw.mean_logit
