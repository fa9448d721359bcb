r"""Soft labels: the softmax at a temperature, ATS, and ISATS.

With logits `f` of shape (N, C) and labels `y`, all three divide the logits by temperatures and take **one** softmax
over all classes; they differ in which temperature a class gets:

====== ======================== ===========================================================
name   the target's logit       the wrong classes' logits
====== ======================== ===========================================================
TS     f_y / tau                f_c / tau
ATS    f_y / tau_target         f_c / tau_other
ISATS  f_y / tau_target         f_c / tau_other(i), per example, to maximise the derived variance
====== ======================== ===========================================================

Two traps, and what stands against them:

* ATS and ISATS are not shift-invariant: adding a constant to all logits changes the result. ``center="mean"`` (the
  default) subtracts each row's mean first.
* The variance often grows without end as tau_other shrinks, until one wrong class takes all the mass. `isats` therefore
  maximises under a constraint; see there.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from capmismatch._numerics.arrays import ArrayLike, as_logits, as_pair
from capmismatch._numerics.isats_options import CENTERS, CONSTRAINTS, margin_of
from capmismatch._numerics.isats_problem import Search
from capmismatch._numerics.isats_search import maximise, order_interval
from capmismatch._numerics.softmax import Asymmetric, LogitParts, Softened, take_apart
from capmismatch.errors import InputError, must_be_one_of, must_be_positive


def soften(logits: ArrayLike, labels: ArrayLike = None, tau: float = 1.0) -> Tensor:
    r"""Softmax at a temperature, :math:`p_c = e^{f_c/\tau} / \sum_j e^{f_j/\tau}`.

    Parameters
    ----------
    logits : (N, C) tensor or array
    labels : ignored; it stands here so that `soften`, `ats` and `isats` are called alike
    tau : positive temperature

    Returns
    -------
    (N, C) tensor of probabilities, float32 or wider, differentiable in `logits`.

    References
    ----------
    Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", arXiv 1503.02531.

    Examples
    --------
    >>> soften([[2.0, 0.0, 0.0]], tau=2.0).round(decimals=3)
    tensor([[0.5760, 0.2120, 0.2120]])
    """
    must_be_positive(tau, "tau")
    return torch.softmax(as_logits(logits) / tau, dim=1)


def ats(
    logits: ArrayLike, labels: ArrayLike, tau_target: float = 4.0, tau_other: float = 2.0, *, center: str = "mean"
) -> Tensor:
    r"""Asymmetric temperature scaling: the target's logit over `tau_target`, the others' over `tau_other`.

    Parameters
    ----------
    logits : (N, C) tensor or array
    labels : (N,) integers in [0, C)
    tau_target, tau_other : positive temperatures; equal ones give plain temperature scaling
    center : "mean" subtracts each row's mean logit first, "none" takes the logits as they are

    Returns
    -------
    (N, C) tensor of probabilities, float32 or wider, differentiable in `logits`.

    References
    ----------
    Li et al., "Asymmetric temperature scaling makes larger networks teach well again", NeurIPS 2022, arXiv 2210.04427.

    Examples
    --------
    >>> ats([[3.0, 0.0, -3.0]], [0], tau_target=3.0, tau_other=1.5).round(decimals=3)
    tensor([[0.7050, 0.2590, 0.0350]])
    """
    must_be_positive(tau_target, "tau_target")
    must_be_positive(tau_other, "tau_other")
    f, y = as_pair(logits, labels)
    return torch.softmax(_asymmetric(_centered(f, center), y, tau_target, tau_other), dim=1)


@dataclass(frozen=True, eq=False)
class ISATSResult:
    """What `isats` found, example by example; every field is a tensor of N rows.

    Attributes
    ----------
    probs : (N, C) soft labels, in the logits' own precision (float32 at least)
    tau_other : (N,) the temperature of the wrong classes
    at_bound : (N,) bool, whether `tau_other` sits on an end of `bounds`
    constrained : (N,) bool, whether the constraint, not the maximum or a bound, set `tau_other`
    target_prob : (N,) p_y under the result
    variance, variance_before : (N,) derived variance under the result, and under plain ``tau = tau_target``
    flipped : (N,) bool, whether the arg max of `probs` differs from that of the logits
    """

    probs: Tensor
    tau_other: Tensor
    at_bound: Tensor
    constrained: Tensor
    target_prob: Tensor
    variance: Tensor
    variance_before: Tensor
    flipped: Tensor

    def __repr__(self) -> str:
        rows, classes = self.probs.shape
        if rows == 0:
            return f"ISATSResult(0 examples, {classes} classes)"
        low, middle, high = np.quantile(self.tau_other.cpu().numpy(), (0.1, 0.5, 0.9))  # torch's stops at 2^24 values
        share = {name: float(getattr(self, name).double().mean()) for name in ("at_bound", "flipped")}
        return (
            f"ISATSResult({rows} examples, {classes} classes: tau_other {middle:.2f} [{low:.2f}, {high:.2f}], "
            f"at_bound {share['at_bound']:.1%}, p_y {self.target_prob.mean():.3f}, "
            f"variance x{self.variance.mean() / self.variance_before.mean():.2f}, flipped {share['flipped']:.1%})"
        )


def isats(
    logits: ArrayLike,
    labels: ArrayLike,
    tau_target: float = 4.0,
    bounds: tuple[float, float] = (0.5, 8.0),
    *,
    constraint: str = "order",
    center: str = "mean",
    margin: float | None = None,
) -> ISATSResult:
    r"""Per-example asymmetric temperature scaling that maximises the derived variance.

    For each example, with the target's logit over `tau_target`, `tau_other` in `bounds` is chosen to maximise the
    variance of the probabilities over the wrong classes, :math:`v(q) = (1 - p_y)^2 \, v(\tilde q)`. It can have
    several maxima. Between the points where the search computes it, the variance is bounded by its convex parts, and
    the search goes on until the bounds leave no room for a higher maximum (`_numerics.isats_search`): none by 1e-8
    of the variance, but 5 % next to a maximum that was found, where the slopes at both ends show no other. So much is
    proved, as long as 1000 points suffice. Tried, with the compiled loops: in 5.4 million examples made of clusters of
    up to 1000 classes, most of them small steps from one another towards close maxima and ties, grids of 400 or 600
    points, each of their maxima refined, found no variance higher by 1e-9, nor did grids of 20,000 points in 45,000
    more; 2.1 million of these grids had two to four maxima. The maximum is the root of the derivative, to 1e-8 in log
    tau_other; of equally high ones, up to rounding, the lowest tau_other is taken. Where no
    temperature changes the variance (all wrong logits equal, or two classes), tau_other is tau_target, as nearly as
    bounds and constraint allow.

    Parameters
    ----------
    logits : (N, C) tensor or array of the teacher
    labels : (N,) integers in [0, C)
    tau_target : positive temperature of the target's logit
    bounds : (low, high), 0 < low < high, between which tau_other is searched
    constraint : what keeps the variance from growing by handing all mass to one wrong class

        * "order": the target stays on top of every example where the teacher has it there,
          :math:`f_y/\tau_{target} - \max_c f_c/\tau_{other} \ge` `margin`. Where no tau_other in `bounds` reaches the
          margin, the one that comes nearest is taken. Examples that the teacher misclassifies are not constrained.
        * "anchor": logits are taken relative to the target's, so where the teacher has it on top, p_y never falls below
          its value at the flattest temperature. `center` and `tau_target` have no effect then.
        * "none": the literal arg max. It runs into the lower bound on most examples of real networks, and warns.

        The default rests on two studies of students. On UCI letters (``data/letters``) order with margins 0 to 1 and
        anchor are within 0.1 points of each other, and "none" costs 1.3 to 1.6 points; on CIFAR-10 (``data/cifar10``)
        order with margin 1 is best, anchor costs 0.5 points, margin 0 1.5, and "none" 5.1.
    center : "mean" or "none", as in `ats`
    margin : only with "order": how far, in logits after division, the target has to stay on top; >= 0, by default 1

    Returns
    -------
    ISATSResult

    References
    ----------
    Fan, Li, Zhan, "Exploring dark knowledge under various teacher capacities and addressing capacity mismatch",
    Frontiers of Computer Science 2026, 20(6): 2006333 (arXiv 2405.13078). The constraints are capmismatch's own.

    Examples
    --------
    >>> found = isats([[9.0, 3.0, -5.0, -7.0]], [0], tau_target=4.0)
    >>> round(float(found.tau_other[0]), 3), bool(found.flipped[0])
    (2.4, False)
    """
    setting = ISATSSetting(tau_target, bounds, constraint, center, margin_of(constraint, margin))
    given, y = as_pair(logits, labels)
    raw = take_apart(given.detach(), y)
    found = setting.search(raw)
    low = setting.bounds[0]
    degenerate = float((found.tau_other <= low).double().mean()) if len(y) else 0.0
    if constraint == "none" and degenerate > 0.5:
        warnings.warn(
            f"ISATS without a constraint sits on its lower bound (tau_other = {low:g}) for {degenerate:.0%} of the "
            "examples: the variance grew by handing the mass to one wrong class. Use constraint='order' or 'anchor'.",
            stacklevel=2,
        )
    return ISATSResult(
        probs=found.softened.probs.to(given.dtype),
        tau_other=found.tau_other,
        at_bound=found.at_bound,
        constrained=found.constrained,
        target_prob=found.softened.target_prob,
        variance=_variance(found.softened),
        variance_before=_variance(Softened.of(raw, setting.tau_target)),
        flipped=found.flipped,
    )


def _variance(softened: Softened) -> Tensor:
    return softened.wrong_mass**2 * softened.inherent_variance


class ISATSFound(NamedTuple):
    """What the search found, (N,) each, and the soft labels, which are computed when they are asked for."""

    tau_other: Tensor
    at_bound: Tensor
    constrained: Tensor
    flipped: Tensor
    softened: Asymmetric


@dataclass(frozen=True)
class ISATSSetting:
    """The options of `isats`, checked, and its search without the soft labels."""

    tau_target: float
    bounds: tuple[float, float]
    constraint: str
    center: str
    margin: float

    def __post_init__(self) -> None:
        must_be_positive(self.tau_target, "tau_target")
        must_be_one_of(self.constraint, CONSTRAINTS, "constraint")
        must_be_one_of(self.center, CENTERS, "center")
        object.__setattr__(self, "bounds", _checked_bounds(self.bounds))
        if not (isinstance(self.margin, Real) and 0 <= self.margin < float("inf")):
            raise InputError(f"margin must be a number >= 0, got {self.margin!r}")
        if self.margin and self.constraint != "order":
            raise InputError(
                f"margin belongs to constraint 'order', got margin={self.margin!r} with constraint={self.constraint!r}"
            )

    def search(self, raw: LogitParts) -> ISATSFound:
        """The best tau_other of each row."""
        origin = raw.target_logit if self.constraint == "anchor" else origin_of(raw, self.center)
        target, top = (raw.target_logit - origin) / self.tau_target, raw.max_wrong_logit - origin
        search = Search(target, top, raw.below, float(self.tau_target))
        low, high = self.bounds
        lower, upper = torch.full_like(target, low), torch.full_like(target, high)
        on_top = raw.correct > 0
        if self.constraint == "order":
            lower, upper = order_interval(search, on_top, self.margin, lower, upper)
        tau_other = maximise(search, lower, upper)
        softened = Asymmetric.of_two(raw, self.tau_target, tau_other, origin)
        flipped = softened.flipped
        if self.constraint == "order":  # on the edge of margin 0 the target and the runner-up tie: that is no flip
            flipped &= ~(on_top & search.on_top(tau_other))
        at_bound = (tau_other <= low) | (tau_other >= high)
        on_edge = (tau_other <= lower) | (tau_other >= upper)
        return ISATSFound(tau_other, at_bound, on_edge & ~at_bound, flipped, softened)


def origin_of(raw: LogitParts, center: str) -> Tensor:
    """(N,) what `center` takes off all logits of a row."""
    must_be_one_of(center, CENTERS, "center")
    return raw.mean_logit if center == "mean" else torch.zeros_like(raw.mean_logit)


def _asymmetric(f: Tensor, labels: Tensor, tau_target: float, tau_other: float) -> Tensor:
    index = labels[:, None]
    return (f / tau_other).scatter(1, index, f.gather(1, index) / tau_target)


def _centered(f: Tensor, center: str) -> Tensor:
    must_be_one_of(center, CENTERS, "center")
    return f - f.mean(1, keepdim=True) if center == "mean" else f


def _checked_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in bounds)
    except (TypeError, ValueError):
        raise InputError(f"bounds must be two numbers (low, high), got {bounds!r}") from None
    if not 0 < low < high < float("inf"):
        raise InputError(f"bounds must be two numbers with 0 < low < high, got {bounds!r}")
    return low, high
