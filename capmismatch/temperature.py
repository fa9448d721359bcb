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

`SoftLabelSpec` describes one such setting; `soft_labels` applies it.

Two traps, and what stands against them:

* ATS and ISATS are not shift-invariant: adding a constant to all logits changes the result. ``center="mean"`` (the
  default) subtracts each row's mean first.
* The variance often grows without end as tau_other shrinks, until one wrong class takes all the mass. `isats` therefore
  maximises under a constraint; see there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from capmismatch._numerics.arrays import ArrayLike, as_logits, as_pair, widest_float
from capmismatch._numerics.isats_problem import Search
from capmismatch._numerics.isats_search import maximise, order_interval
from capmismatch._numerics.soft_label_spec import (
    BOUNDS,
    CENTERS,
    CONSTRAINTS,
    LITERAL,
    MARGIN,
    TAU,
    TAU_OTHER,
    WRONG,
    WRONG_ROWS,
    SoftLabelSpec,
)
from capmismatch._numerics.softmax import Asymmetric, Parts, Softened, take_apart
from capmismatch._utils.text import format_percent
from capmismatch.errors import must_be_one_of, must_be_temperature

__all__ = [
    "CENTERS",
    "CONSTRAINTS",
    "LITERAL",
    "WRONG",
    "ISATSResult",
    "SoftLabelSpec",
    "ats",
    "isats",
    "soft_labels",
    "soften",
]


def soft_labels(spec: SoftLabelSpec, logits: ArrayLike, labels: ArrayLike) -> Tensor:
    """Make soft labels of a teacher's logits as `spec` describes them.

    Parameters
    ----------
    spec : SoftLabelSpec
        Method and temperatures.
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).

    Returns
    -------
    Tensor
        Shape (N, C), probabilities, float32 or wider.

    See Also
    --------
    soften, ats, isats : The three methods with their formulas and sources.
    capmismatch.restored_variance : What each method does to the variance of every teacher of a bank.

    Examples
    --------
    >>> soft_labels(SoftLabelSpec("TS", tau=2.0), [[2.0, 0.0, 0.0]], [0]).round(decimals=3)
    tensor([[0.5760, 0.2120, 0.2120]])
    """
    if spec.method == "TS":
        return soften(logits, labels, spec.tau)
    if spec.method == "ATS":
        return ats(logits, labels, spec.tau, spec.tau_other, center=spec.center)
    options: dict[str, Any] = {
        "constraint": spec.constraint,
        "center": spec.center,
        "margin": spec.margin,
        "wrong": spec.wrong,
    }
    return isats(logits, labels, spec.tau, spec.bounds, **options).probs


def soften(logits: ArrayLike, labels: ArrayLike = None, tau: float = 1.0) -> Tensor:
    r"""Softmax at a temperature, :math:`p_c = e^{f_c/\tau} / \sum_j e^{f_j/\tau}`.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, optional
        Ignored; it stands here so that `soften`, `ats` and `isats` are called alike.
    tau : float, default 1.0
        Temperature > 0.

    Returns
    -------
    Tensor
        Shape (N, C), probabilities, float32 or wider, differentiable in `logits`.

    Raises
    ------
    InputError
        Logits of another shape or not finite, a temperature that is not positive.

    See Also
    --------
    ats, isats : With a temperature of its own for the wrong classes.

    References
    ----------
    Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", arXiv 1503.02531.

    Examples
    --------
    >>> soften([[2.0, 0.0, 0.0]], tau=2.0).round(decimals=3)
    tensor([[0.5760, 0.2120, 0.2120]])
    """
    must_be_temperature(tau, "tau")
    f = as_logits(logits)
    return _softmax(f, lambda wide: wide / tau)


def ats(
    logits: ArrayLike, labels: ArrayLike, tau_target: float = TAU, tau_other: float = TAU_OTHER, *, center: str = "mean"
) -> Tensor:
    r"""Asymmetric temperature scaling: the target's logit over `tau_target`, the others' over `tau_other`.

    Parameters
    ----------
    logits : array_like, shape (N, C)
        Finite logits.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau_target : float, default 4.0
        Temperature > 0 of the target's logit.
    tau_other : float, default 3.0
        Temperature > 0 of the wrong classes' logits; equal to `tau_target` it gives plain temperature scaling.
    center : {"mean", "none"}, default "mean"
        "mean" subtracts each row's mean logit first, "none" takes the logits as they are.

    Returns
    -------
    Tensor
        Shape (N, C), probabilities, float32 or wider, differentiable in `logits`.

    Raises
    ------
    InputError
        Logits or labels that do not fit, a temperature that is not positive, an unknown `center`.

    See Also
    --------
    isats : Chooses `tau_other` for each example.
    capmismatch.losses.ats : The loss of a student taught with these soft labels.

    References
    ----------
    Li et al., "Asymmetric temperature scaling makes larger networks teach well again", NeurIPS 2022, arXiv 2210.04427.

    Examples
    --------
    >>> ats([[3.0, 0.0, -3.0]], [0], tau_target=3.0, tau_other=1.5).round(decimals=3)
    tensor([[0.7050, 0.2590, 0.0350]])
    """
    must_be_temperature(tau_target, "tau_target")
    must_be_temperature(tau_other, "tau_other")
    f, y = as_pair(logits, labels)
    return _softmax(f, lambda wide: _asymmetric(_centered(wide, center), y, tau_target, tau_other))


def _softmax(f: Tensor, tempered: Callable[[Tensor], Tensor]) -> Tensor:
    """The softmax of logits over temperatures; in the widest float where the logits' own is too narrow for these."""
    over_tau = tempered(f)
    if not bool(torch.isfinite(over_tau.detach()).all()):
        over_tau = tempered(f.to(widest_float(f)))
    return torch.softmax(over_tau, dim=1).to(f.dtype)


@dataclass(frozen=True, eq=False)
class ISATSResult:
    """What `isats` returns for N examples of C classes.

    Attributes
    ----------
    probs : Tensor, shape (N, C)
        Soft labels, in the logits' own precision (float32 at least).
    tau_other : Tensor, shape (N,)
        Temperature of the wrong classes.
    at_bound : Tensor of bool, shape (N,)
        Whether `tau_other` sits on an end of `bounds`.
    constrained : Tensor of bool, shape (N,)
        Whether the constraint, not the maximum or a bound, set `tau_other`.
    target_prob : Tensor, shape (N,)
        p_y of the result, in [0, 1].
    variance : Tensor, shape (N,)
        Derived variance of the result.
    variance_before : Tensor, shape (N,)
        Derived variance of plain temperature scaling at ``tau = tau_target``.
    flipped : Tensor of bool, shape (N,)
        Whether the arg max of `probs` differs from that of the logits.
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
        before, after = float(self.variance_before.mean()), float(self.variance.mean())
        # 0 of one wrong class, or equal ones
        change = f"variance x{after / before:.2f}" if before > 0 else "variance 0"
        share = {
            name: format_percent(float(getattr(self, name).double().mean()), 1) for name in ("at_bound", "flipped")
        }
        return (
            f"ISATSResult({rows} examples, {classes} classes: tau_other {middle:.2f} [{low:.2f}, {high:.2f}], "
            f"at_bound {share['at_bound']}, p_y {self.target_prob.mean():.3f}, {change}, flipped {share['flipped']})"
        )


def isats(
    logits: ArrayLike,
    labels: ArrayLike,
    tau_target: float = TAU,
    bounds: tuple[float, float] = BOUNDS,
    *,
    constraint: str = "order",
    center: str = "mean",
    margin: float | None = None,
    wrong: str = WRONG_ROWS,
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
    logits : array_like, shape (N, C)
        Finite logits of the teacher.
    labels : array_like of int, shape (N,)
        In [0, C).
    tau_target : float, default 4.0
        Temperature > 0 of the target's logit.
    bounds : tuple of float, default (0.5, 8.0)
        (low, high), 0 < low < high, between which tau_other is searched.
    constraint : {"order", "anchor", "none"}, default "order"
        What keeps the variance from growing by handing all mass to one wrong class:

        * "order": the target stays on top of every example where the teacher has it there,
          :math:`f_y/\tau_{target} - \max_c f_c/\tau_{other} \ge` `margin`. Where no tau_other in `bounds` reaches the
          margin, the one that comes nearest is taken. Of examples that the teacher gets wrong, see `wrong`.
        * "anchor": logits are taken relative to the target's, so where the teacher has it on top, p_y never falls below
          its value at the flattest temperature. `center` and `tau_target` have no effect then.
        * "none": the literal arg max. It runs into the lower bound on most examples of real networks, and warns.

        The default rests on two studies of students. On UCI letters (``data/letters``) order with margins 0 to 1 and
        anchor are within 0.1 points of each other, and "none" costs 1.3 to 1.6 points; on CIFAR-10 (``data/cifar10``)
        order with margin 1 is best, anchor costs 0.5 points, margin 0 1.5, and "none" 5.1.
    center : {"mean", "none"}, default "mean"
        As in `ats`.
    margin : float, optional
        Only with "order": how far, in logits after division, the target has to stay on top; >= 0, 1 by default.
    wrong : {"plain", "target", "free"}, default "free"
        What happens to the examples that the teacher gets wrong, which have no order to keep:

        * "plain": they keep `tau_target` for all classes: plain temperature scaling.
        * "target": the target's logit is raised first, to
          :math:`f_y' = \max_{c \ne y} f_c + \tau_{target} \cdot` `margin`, so that at `tau_target` the target is on
          top by the margin (1 where the constraint has none); then they are treated like those that the teacher gets
          right. The ratios among the wrong classes stay, as in LoCa, which scales their probabilities by one factor;
          how far up the target goes is capmismatch's own choice.
        * "free": their search is not constrained. Under most real networks they end on the lower bound then, with
          nearly all mass on one wrong class.

    Returns
    -------
    ISATSResult
        Soft labels, temperatures and their diagnosis, example by example.

    Raises
    ------
    InputError
        Logits or labels that do not fit, a number out of its range, an unknown `constraint`, `center` or `wrong`,
        a margin without the constraint "order".

    Warns
    -----
    UserWarning
        If, without a constraint, more than half of the examples sit on the lower bound.

    See Also
    --------
    capmismatch.restored_variance : The same for every teacher of a bank, beside TS and ATS.
    capmismatch.plots.isats_restored : The figure of that table.
    capmismatch.losses.isats : The loss of a student taught with these soft labels.

    References
    ----------
    Fan, Li, Zhan, "Exploring dark knowledge under various teacher capacities and addressing capacity mismatch",
    Frontiers of Computer Science 2026, 20(6): 2006333 (arXiv 2405.13078). The constraints, and what
    happens to wrong rows, are capmismatch's own; `LITERAL` has the settings without any of it.

    Yang, Wu, Yang, "LoCa: Logit calibration for knowledge distillation", ECAI 2024, arXiv 2409.04778.

    Examples
    --------
    >>> result = isats([[9.0, 3.0, -5.0, -7.0]], [0], tau_target=4.0)
    >>> round(float(result.tau_other[0]), 3), bool(result.flipped[0])
    (2.4, False)
    """
    must_be_temperature(tau_target, "tau_target")
    spec = SoftLabelSpec("ISATS", tau_target, TAU_OTHER, constraint, margin, center, bounds, wrong)
    f, y = as_pair(logits, labels)
    raw = take_apart(f.detach(), y)
    result = soften_parts(spec, raw)
    low = spec.bounds[0]
    degenerate = float((result.tau_other <= low).double().mean()) if len(y) else 0.0
    if constraint == "none" and degenerate > 0.5:
        warnings.warn(
            f"ISATS without a constraint sits on its lower bound (tau_other = {low:g}) for {degenerate:.0%} of the "
            "examples: the variance grew by handing the mass to one wrong class. Use constraint='order' or 'anchor'.",
            stacklevel=2,
        )
    return ISATSResult(
        probs=result.softened.probs.to(f.dtype),
        tau_other=result.tau_other,
        at_bound=result.at_bound,
        constrained=result.constrained,
        target_prob=result.softened.target_prob,
        variance=_variance(result.softened),
        variance_before=_variance(Softened.of(raw, tau_target)),
        flipped=result.flipped,
    )


def _variance(softened: Softened) -> Tensor:
    return softened.wrong_mass**2 * softened.inherent_variance


class SoftenedParts(NamedTuple):
    """What `soften_parts` returns for N examples; the fields are those of `ISATSResult`."""

    softened: Asymmetric  # the soft labels: probabilities and what probes read of them, computed when asked for
    tau_other: Tensor  # (N,) the same for all examples but under ISATS
    at_bound: Tensor  # (N,) bool, False but under ISATS
    constrained: Tensor  # (N,) bool, False but under ISATS
    flipped: Tensor  # (N,) bool


def soften_parts(spec: SoftLabelSpec, raw: Parts, *, ats_reads_wrong: bool = False) -> SoftenedParts:
    """Apply `spec` to rows that `take_apart` has split, for all that reads more of soft labels than probabilities.

    Parameters
    ----------
    spec : SoftLabelSpec
        Method and temperatures.
    raw : LogitParts or CondensedParts
        N rows.
    ats_reads_wrong : bool, default False
        Whether ATS, too, leaves the rows that the teacher gets wrong at `tau`, with wrong "plain". Over a vocabulary
        these are most rows, and a lower temperature of the wrong tokens hands all mass to the likeliest.

    Returns
    -------
    SoftenedParts
        The soft labels in the widest float of the device, and what the search of ISATS found.
    """
    if spec.method == "ISATS":
        return _searched(spec, raw)
    tau_other: float | Tensor = spec.tau if spec.method == "TS" else spec.tau_other
    if ats_reads_wrong and spec.method == "ATS" and spec.wrong == "plain":
        tau_other = torch.where(raw.correct > 0, torch.full_like(raw.target_logit, spec.tau_other), spec.tau)
    origin = torch.zeros_like(raw.mean_logit) if spec.method == "TS" else _origin(raw, spec.center)
    softened = Asymmetric.of_two(raw, spec.tau, tau_other, origin)
    nowhere = torch.zeros_like(raw.target_logit, dtype=torch.bool)
    each = tau_other if isinstance(tau_other, Tensor) else torch.full_like(raw.target_logit, tau_other)
    return SoftenedParts(softened, each, nowhere, nowhere, softened.flipped)


def _searched(spec: SoftLabelSpec, raw: Parts) -> SoftenedParts:
    """ISATS: the best tau_other of each row."""
    right = raw.correct > 0
    if spec.wrong == "target":
        raw = _with_target_on_top(raw, spec)
    origin = raw.target_logit if spec.constraint == "anchor" else _origin(raw, spec.center)
    target, top = (raw.target_logit - origin) / spec.tau, raw.max_wrong_logit - origin
    search = Search(target, top, raw.wrong_logits, float(spec.tau))
    low, high = spec.bounds
    lower, upper = torch.full_like(target, low), torch.full_like(target, high)
    on_top = torch.ones_like(right) if spec.wrong == "target" else right
    if spec.constraint == "order":
        lower, upper = order_interval(search, on_top, spec.margin or 0.0, lower, upper)
    if spec.wrong == "plain":
        lower, upper = (end.masked_fill(~right, spec.tau) for end in (lower, upper))
    tau_other = maximise(search, lower, upper)
    softened = Asymmetric.of_two(raw, spec.tau, tau_other, origin)
    flipped = softened.flipped
    if spec.constraint == "order":  # on the edge of margin 0 the target and the runner-up tie: that is no flip
        flipped &= ~(right & search.on_top(tau_other))
    at_bound = (tau_other <= low) | (tau_other >= high)
    on_edge = (tau_other <= lower) | (tau_other >= upper)
    if spec.wrong == "plain":  # there was nothing to search
        at_bound, on_edge = at_bound & right, on_edge & right
    return SoftenedParts(softened, tau_other, at_bound, on_edge & ~at_bound, flipped)


def _with_target_on_top(raw: Parts, spec: SoftLabelSpec) -> Parts:
    """The rows that the teacher gets wrong with a higher logit of the target: on top by the margin at tau_target."""
    margin = MARGIN if spec.margin is None or spec.constraint != "order" else spec.margin
    raised = raw.max_wrong_logit + spec.tau * margin
    target = torch.where(raw.correct > 0, raw.target_logit, raised)
    mean = raw.mean_logit + (target - raw.target_logit) / (raw.wrong_classes + 1)
    return replace(raw, target_logit=target, mean_logit=mean)  # `correct` stays: what is moved is told against it


def _origin(raw: Parts, center: str) -> Tensor:
    """(N,) what `center` subtracts from all logits of a row."""
    return raw.mean_logit if center == "mean" else torch.zeros_like(raw.mean_logit)


def _asymmetric(f: Tensor, labels: Tensor, tau_target: float, tau_other: float) -> Tensor:
    index = labels[:, None]
    return (f / tau_other).scatter(1, index, f.gather(1, index) / tau_target)


def _centered(f: Tensor, center: str) -> Tensor:
    must_be_one_of(center, CENTERS, "center")
    return f - f.mean(1, keepdim=True) if center == "mean" else f
