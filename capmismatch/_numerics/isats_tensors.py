"""The search of ISATS in tensor operations, all rows at a time: the reference.

`isats_search` describes the search and lists its steps here and in `isats_loops`, which runs on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from capmismatch._numerics.isats_problem import MOST_SPLITS, SLACK, SLACK_AT_MAXIMUM, TIE, UNEXPLAINED, Search
from capmismatch._numerics.threads import blocks

SCAN_STEP = math.log(4)  # of log beta, at most
CELLS = 1 << 22  # logits at a time where rows are split many times over


class Points(NamedTuple):
    """G and its parts at one beta of each row, as `isats_problem` defines them, (N,) each."""

    beta: Tensor
    height: Tensor  # G
    wrong_mass: Tensor  # 2 log(1 - p_y)
    spread: Tensor  # log D
    loss: Tensor  # L
    rise: Tensor  # A'
    fall: Tensor  # L'
    slope: Tensor  # G'
    bend: Tensor  # G''
    peak: Tensor  # 1 where it is a maximum that was closed in on

    def at(self, index: Tensor) -> Points:
        """Some of them."""
        return Points(*(values[index] for values in self))


def points(search: Search, beta: Tensor) -> Points:
    """Evaluate one beta of each row."""
    k = search.below.shape[1]
    x = search.below * beta[:, None]
    less_one = torch.expm1(x)  # keeps the digits of differences where all wrong logits are nearly equal
    total = x.exp_().sum(1)
    q, deviation = x / total[:, None], (less_one - less_one.mean(1, keepdim=True)) / total[:, None]
    mean = (q * search.below).sum(1)
    from_mean = search.below - mean[:, None]
    square, variance = deviation.square().sum(1), (q * from_mean.square()).sum(1)
    odds = search.target - search.top_wrong * beta - total.log()
    p, log_wrong = torch.sigmoid(odds), torch.nn.functional.logsigmoid(-odds)
    expected = mean + search.top_wrong
    ratio = 2 * (deviation * q * from_mean).sum(1) / square
    bend = (4 * (q * from_mean).square().sum(1) - 2 * (square + 1 / k) * variance) / square - ratio.square()
    bend += 2 * p * (variance - log_wrong.exp() * expected.square())
    flat = square == 0
    return Points(
        beta=beta,
        height=2 * log_wrong + square.log(),
        wrong_mass=2 * log_wrong,
        spread=square.log(),
        loss=2 * (total.log() - log_wrong),
        rise=(ratio + 2 * mean - 2 / beta).masked_fill(flat, 0.0),
        fall=2 * (mean - p * expected),
        slope=(2 * p * expected + ratio).masked_fill(flat, 0.0),
        bend=bend.masked_fill(flat, 0.0),
        peak=torch.zeros_like(beta),
    )


def maximiser(search: Search, low: Tensor, high: Tensor) -> Tensor:
    """The beta in [low, high] that maximises G, (N,); nan where the variance is zero at every beta."""
    scan = _scan(search, low, high)
    everyone = torch.arange(len(low), device=low.device)
    heights = torch.stack([point.height for point in scan])
    best = Best(everyone, low)
    for end, outward in ((scan[0], scan[0].slope <= 0), (scan[-1], scan[-1].slope >= 0)):
        best.add(everyone[outward], end.at(outward))
    spans = Spans(everyone.repeat(len(scan) - 1), _joined(scan[:-1]), _joined(scan[1:]))
    # First the maximum next to the best point, then all where G may still be above the best one.
    top = heights.max(0).values[spans.rows]
    spans = spans.split(search, best, spans.fresh & ((spans.left.height == top) | (spans.right.height == top)))
    splits = torch.zeros_like(everyone)
    while True:
        near = spans.touches_peak & _look_simple(spans.left, spans.right)
        slack = torch.where(spans.fresh, 0.0, torch.where(near, SLACK_AT_MAXIMUM, SLACK))
        sure = _below(spans.left, spans.right, best.height[spans.rows] + slack)
        spans = spans.only(~sure & (splits[spans.rows] < MOST_SPLITS))
        if len(spans.rows) == 0:
            break
        splits += torch.bincount(spans.rows, minlength=len(splits))
        spans = spans.split(search, best, torch.ones_like(spans.fresh))
    return torch.where(heights.max(0).values == -torch.inf, torch.nan, best.beta())


def _scan(search: Search, low: Tensor, high: Tensor) -> list[Points]:
    start, stretch = low.log(), high.log() - low.log()
    last = max(1, math.ceil(float(stretch.max()) / SCAN_STEP)) if len(stretch) else 1
    inner = [points(search, (start + step / last * stretch).exp()) for step in range(1, last)]
    return [points(search, low), *inner, points(search, high)]


def _joined(parts: Sequence[Points]) -> Points:
    return Points(*(torch.cat(values) for values in zip(*parts, strict=True)))


class Best:
    """The maxima of each row so far, and the highest one's height, (N,)."""

    def __init__(self, everyone: Tensor, low: Tensor) -> None:
        self.height = torch.full_like(low, -torch.inf)
        self.maxima = [(everyone, low, self.height)]

    def add(self, rows: Tensor, peaks: Points) -> None:
        """Take in one more maximum of some rows."""
        self.height = self.height.scatter_reduce(0, rows, peaks.height, "amax")
        self.maxima.append((rows, peaks.beta, peaks.height))

    def beta(self) -> Tensor:
        """Of the maxima as high as each other up to rounding, the one of least tau_other."""
        rows, beta, height = (torch.cat(values) for values in zip(*self.maxima, strict=True))
        level = height >= self.height[rows] - TIE
        return torch.zeros_like(self.height).scatter_reduce(0, rows[level], beta[level], "amax")


class Spans(NamedTuple):
    """What lies between two neighbouring points of a row, (M,)."""

    rows: Tensor
    left: Points
    right: Points

    @property
    def fresh(self) -> Tensor:
        """Whether a maximum lies in between for certain, and neither end is one that was closed in on."""
        return (self.left.slope > 0) & (self.right.slope <= 0) & ~self.touches_peak

    @property
    def touches_peak(self) -> Tensor:
        """Whether either end is a maximum that was closed in on."""
        return self.left.peak + self.right.peak > 0

    def only(self, which: Tensor) -> Spans:
        """Some of them."""
        return Spans(self.rows[which], self.left.at(which), self.right.at(which))

    def split(self, search: Search, best: Best, which: Tensor) -> Spans:
        """Split some of them: at the maximum where one is in between, in the middle elsewhere."""
        unsplit, cut = self.only(~which), self.only(which)
        if len(cut.rows) == 0:
            return unsplit
        fresh = cut.fresh
        u = 0.5 * (cut.left.beta.log() + cut.right.beta.log())
        if bool(fresh.any()):
            u[fresh] = _root(search.rows(cut.rows[fresh]), cut.left.at(fresh), cut.right.at(fresh))
        pieces = blocks(len(u), max(1, CELLS // search.below.shape[1]))
        new = _joined([points(search.rows(cut.rows[piece]), u[piece].exp()) for piece in pieces])
        new = new._replace(peak=fresh.to(u.dtype))
        best.add(cut.rows[fresh], new.at(fresh))
        left, right = _joined([unsplit.left, cut.left, new]), _joined([unsplit.right, new, cut.right])
        return Spans(torch.cat([unsplit.rows, cut.rows, cut.rows]), left, right)


def _below(left: Points, right: Points, limit: Tensor) -> Tensor:
    """Whether G surely stays below the limit between two points, or is monotone, so that no inner point is higher."""
    simple = right.spread + torch.maximum(left.wrong_mass, right.wrong_mass) <= limit
    rising = left.rise - right.fall + 2 / right.beta > 0
    falling = right.rise - left.fall + 2 / left.beta < 0
    width, loss, bent = right.beta - left.beta, right.loss - left.loss, right.fall - left.fall
    chord = (right.height - left.height + loss - 2 * (right.beta / left.beta).log()) / width
    cross = (left.beta + (right.fall * width - loss) / bent).clamp(left.beta, right.beta)
    most = torch.maximum(
        _most(left, chord - left.fall, left.beta, cross), _most(right, chord - right.fall, cross, right.beta)
    )
    sure = (most <= limit) & (left.height > -torch.inf) & (bent > 0)
    return simple | rising | falling | sure


def _most(point: Points, slope: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The largest value in [left, right] of height + slope (beta - start) + 2 log(beta / start), from that point on."""
    beta = torch.where(slope >= 0, right, (-2 / slope).clamp(left, right))
    return point.height + slope * (beta - point.beta) + 2 * (beta / point.beta).log()


def _look_simple(left: Points, right: Points) -> Tensor:
    """Whether G falls from the maximum at one of two points to the other just as its slopes there have it.

    In log beta, the cubic with these slopes and their derivatives has to keep its sign, and to have G's change as its
    integral, nearly.
    """
    h = (right.beta / left.beta).log()
    first, last = left.beta * left.slope, right.beta * right.slope
    bend, final = left.beta.square() * left.bend + first, right.beta.square() * right.bend + last
    falls, climbs = (last < 0) & (3 * last < h * final), (first > 0) & (3 * first > -h * bend)
    change = right.height - left.height
    unexplained = (h / 2 * (first + last) + h.square() / 12 * (bend - final) - change).abs()
    return torch.where(left.peak > 0, falls, climbs) & (unexplained <= UNEXPLAINED * change.abs())


def _root(search: Search, left: Points, right: Points, tolerance: float = 1e-9) -> Tensor:
    """The root of G' in log beta between two points: regula falsi with the Illinois rule, and bisection.

    A row leaves when its bracket is narrower than `tolerance`, so the last rounds work on few rows.
    """
    a, b, fa, fb = left.beta.log(), right.beta.log(), left.slope, right.slope
    result = torch.empty_like(a)
    rows = torch.arange(len(a), device=a.device)
    side = torch.zeros_like(a)  # which end moved last: +1 a, -1 b
    for step in range(200):
        secant = (a * fb - b * fa) / (fb - fa)
        middle = 0.5 * (a + b)
        usable = torch.isfinite(secant) & (a < secant) & (secant < b)
        # Every third round bisects: the bracket shrinks even where the secant creeps.
        c = torch.where(usable & (step % 3 != 2), secant, middle)
        fc = points(search, c.exp()).slope
        moves_a = fc > 0
        fb = torch.where(moves_a & (side == 1), fb / 2, torch.where(moves_a, fb, fc))
        fa = torch.where(~moves_a & (side == -1), fa / 2, torch.where(moves_a, fc, fa))
        a, b = torch.where(moves_a, c, a), torch.where(moves_a, b, c)
        side = torch.where(moves_a, 1.0, -1.0).to(a.dtype)
        done = ((b - a) <= tolerance) | (fc == 0)
        if bool(done.any()):
            result[rows[done]] = torch.where(fc == 0, c, 0.5 * (a + b))[done]
            keep = ~done
            if not bool(keep.any()):
                return result
            rows, search = rows[keep], search.rows(keep)
            a, b, fa, fb, side = (t[keep] for t in (a, b, fa, fb, side))
    result[rows] = 0.5 * (a + b)
    return result
