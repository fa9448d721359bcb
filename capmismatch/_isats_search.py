"""The search of ISATS: the derived variance of each row as a function of tau_other, its interval and its maximiser.

`maximise` goes row by row in compiled code (`capmismatch._isats_kernel`) where that works, and through tensor
operations elsewhere (`capmismatch._where`); both find the same to 1e-8.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from capmismatch import _where
from capmismatch._threads import blocks, each

if _where.LOOPS:
    from capmismatch import _isats_kernel as kernel

SCAN_STEP = 0.26  # of log tau_other in the coarse scan, at most: where there are two maxima, they lie wider apart
BLOCK_LOGITS = 1 << 16  # what a thread searches at a time


class Search(NamedTuple):
    """The derived variance of each row as a function of its tau_other.

    With u = log tau_other, K = C - 1 and sums over wrong classes, the logarithm of the derived variance is
    g(u) = 2 log(1 - p_y) + log(sum d^2 / K), d = q~ - 1/K, and with E = sum q~ f the mean wrong logit under q~,
    g'(u) = -(2 / tau_other) (p_y E + sum d q~ (f - E) / sum d^2).
    """

    target: Tensor  # (N,) f_y / tau_target
    top_wrong: Tensor  # (N,) largest wrong f, not divided
    below: Tensor  # (N, K) wrong f less their largest
    tau_target: float

    def rows(self, index: Tensor) -> Search:
        """The same for some rows."""
        return Search(self.target[index], self.top_wrong[index], self.below[index], self.tau_target)

    def slope_and_height(self, tau_other: Tensor) -> tuple[Tensor, Tensor]:
        """g'(u), up to a positive factor, and g(u) up to a constant, each of shape (N,)."""
        x = self.below / tau_other[:, None]
        less_one = torch.expm1(x)  # keeps the digits of differences where all wrong logits are nearly equal
        total = x.exp_().sum(1, keepdim=True)
        q, deviation = x.div_(total), (less_one - less_one.mean(1, keepdim=True)).div_(total)
        mean = row_dot(q, self.below)
        spread = row_dot(deviation, deviation).clamp_min(torch.finfo(q.dtype).tiny)
        pull = row_dot(deviation.mul_(q), self.below - mean[:, None]) / spread
        log_odds = self.target - self.top_wrong / tau_other - total[:, 0].log()
        slope = -(torch.sigmoid(log_odds) * (mean + self.top_wrong) + pull)
        return slope, 2 * torch.nn.functional.logsigmoid(-log_odds) + spread.log()

    def on_top(self, tau_other: Tensor) -> Tensor:
        """Whether the target's logit is at least the largest wrong one after division, up to rounding, (N,)."""
        top = self.top_wrong / tau_other
        return self.target - top >= -1e-12 * (self.target.abs() + top.abs())


def maximise(search: Search, lower: Tensor, upper: Tensor) -> Tensor:
    """The tau_other in [lower, upper] that maximises the derived variance of each row, (N,); lower must be <= upper.

    Where the variance is zero whatever tau_other is (all wrong logits equal, or two classes), it is tau_target, as
    nearly as the interval allows: plain temperature scaling.
    """
    if not _where.by_loops(lower.device):
        return _maximise_batched(search, lower, upper)
    found = torch.empty_like(lower)
    tensors = (search.below, search.target, search.top_wrong, lower, upper, found)
    arrays = [tensor.contiguous().numpy() for tensor in tensors]

    def run(rows: slice) -> None:
        kernel.search_rows(search.tau_target, *(array[rows] for array in arrays))

    each(run, blocks(len(found), max(1, BLOCK_LOGITS // search.below.shape[1])), torch.get_num_threads())
    return found


def _maximise_batched(search: Search, lower: Tensor, upper: Tensor) -> Tensor:
    start, stretch = lower.log(), upper.log() - lower.log()
    last = max(1, math.ceil(float(stretch.max()) / SCAN_STEP)) if len(stretch) else 1
    fractions = torch.linspace(0, 1, last + 1, dtype=lower.dtype, device=lower.device)
    scanned = [search.slope_and_height((start + fraction * stretch).exp()) for fraction in fractions]
    slopes, heights = (torch.stack(values) for values in zip(*scanned, strict=True))
    best = heights.argmax(0)
    rising = slopes.gather(0, best[None])[0] > 0
    # From the best point of the scan the maximum lies uphill, and before the next point, which is lower.
    other = best + torch.where(rising, 1, -1)
    at_end = (other < 0) | (other > last) | (stretch <= 0)
    here, there = fractions[best], fractions[other.clamp(0, last)]
    tau_other = torch.where(best == 0, lower, torch.where(best == last, upper, (start + here * stretch).exp()))
    inside = (~at_end).nonzero()[:, 0]
    if len(inside):
        u = start + torch.stack([here, there]) * stretch
        tau_other[inside] = _root(search.rows(inside), u[0, inside], u[1, inside]).exp()
    flat = (search.below == 0).all(1)
    tau_other = torch.where(flat, torch.full_like(tau_other, search.tau_target), tau_other)
    return tau_other.clamp(lower, upper)


def _root(search: Search, a: Tensor, b: Tensor, tolerance: float = 1e-9) -> Tensor:
    """The root of g'(u) between a, where g climbs towards b, and b: regula falsi with the Illinois rule, and bisection.

    A row leaves when its bracket is narrower than `tolerance`, so the last rounds work on few rows.
    """
    result = torch.empty_like(a)
    rows = torch.arange(len(a), device=a.device)
    fa, fb = search.slope_and_height(a.exp())[0], search.slope_and_height(b.exp())[0]
    side = torch.zeros_like(a)  # which end moved last: +1 a, -1 b
    uphill = torch.sign(fa)
    for step in range(200):
        secant = (a * fb - b * fa) / (fb - fa)
        middle = 0.5 * (a + b)
        usable = torch.isfinite(secant) & (torch.minimum(a, b) < secant) & (secant < torch.maximum(a, b))
        # Every third round bisects: the bracket shrinks even where the secant creeps.
        c = torch.where(usable & (step % 3 != 2), secant, middle)
        fc = search.slope_and_height(c.exp())[0]
        moves_a = torch.sign(fc) == uphill
        fb = torch.where(moves_a & (side == 1), fb / 2, torch.where(moves_a, fb, fc))
        fa = torch.where(~moves_a & (side == -1), fa / 2, torch.where(moves_a, fc, fa))
        a, b = torch.where(moves_a, c, a), torch.where(moves_a, b, c)
        side = torch.where(moves_a, 1.0, -1.0).to(a.dtype)
        done = ((b - a).abs() <= tolerance) | (fc == 0)
        if bool(done.any()):
            result[rows[done]] = torch.where(fc == 0, c, 0.5 * (a + b))[done]
            keep = ~done
            if not bool(keep.any()):
                return result
            rows, search = rows[keep], search.rows(keep)
            a, b, fa, fb, side, uphill = (t[keep] for t in (a, b, fa, fb, side, uphill))
    result[rows] = 0.5 * (a + b)
    return result


def order_interval(
    search: Search, on_top: Tensor, margin: float, lower: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor]:
    """Narrow [lower, upper], for rows with the target on top, to f_y/tau_target - max_wrong f/tau_other >= margin."""
    room = search.target - margin  # the constraint reads top_wrong / tau_other <= room
    limit = search.top_wrong / room
    positive = search.top_wrong > 0
    # top_wrong > 0: tau_other >= limit if there is room, else no tau_other will do and the largest comes nearest.
    narrow_lower = torch.where(positive, torch.where(room > 0, limit, torch.inf), lower)
    # top_wrong <= 0: always fulfilled with room >= 0, else tau_other <= limit.
    narrow_upper = torch.where(~positive & (room < 0), limit, upper)
    narrow_lower = torch.where(on_top, torch.maximum(lower, narrow_lower), lower)
    narrow_upper = torch.where(on_top, torch.minimum(upper, narrow_upper), upper)
    return torch.minimum(narrow_lower, upper), torch.maximum(narrow_upper, lower)


def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar product of each row of a with that of b, (N,)."""
    return torch.einsum("nc,nc->n", a, b)
