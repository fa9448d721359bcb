"""The search of ISATS over condensed rows: the sums at beta and 2 beta give the derived variance at every temperature.

Between two stored betas these sums are interpolated, so nothing is proved there as it is for logits (`isats_search`):
the variance is read at points evenly spaced in log beta, and the best of them is closed in on between its neighbours by
golden sections. Against all logits of a vocabulary of 49,152 tokens both find the same maximum.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capmismatch._numerics.condensed import CondensedParts
from capmismatch._numerics.isats_problem import TIE, Search
from capmismatch._numerics.threads import blocks, run_in_threads
from capmismatch.errors import InputError

POINTS = 25  # between the ends of a row's interval: two octaves are cut into steps of 6 %
SECTIONS = 20  # shrink two steps to 1e-5 of tau: the variance is flat there
ROWS_AT_ONCE = 4096  # their heads fit the cache
GOLDEN = (math.sqrt(5) - 1) / 2


def maximise_condensed(search: Search, lower: Tensor, upper: Tensor) -> Tensor:
    """The tau_other in [lower, upper] that maximises the derived variance of each condensed row.

    Parameters and result are those of `isats_search.maximise`; `below` of the search are condensed rows.

    Raises
    ------
    InputError
        The interval asks for sums beyond the betas of the rows.
    """
    _must_be_known(search.below, lower, upper)
    tau = lower.clone()
    searched = (lower < upper).nonzero()[:, 0]

    def run(some: slice) -> None:
        index = searched[some]
        tau[index] = _maximise(search.rows(index), lower[index], upper[index])

    threads = torch.get_num_threads() if lower.device.type == "cpu" else 1
    run_in_threads(
        run, blocks(len(searched), ROWS_AT_ONCE if lower.device.type == "cpu" else len(searched) or 1), threads
    )
    return tau


def _maximise(search: Search, lower: Tensor, upper: Tensor) -> Tensor:
    """The same for rows whose interval is no single temperature."""
    rows: CondensedParts = search.below
    log_low, log_high = -upper.log(), -lower.log()

    def height(log_beta: Tensor) -> Tensor:
        """Log derived variance up to a constant, (N,)."""
        beta = torch.minimum(torch.maximum(log_beta.exp(), 1 / upper), 1 / lower)
        (sums,) = rows.sums_at([1 / beta])
        log_odds = search.target - beta * search.top_wrong - sums.log_total
        return 2 * torch.nn.functional.logsigmoid(-log_odds) + sums.variance.log()

    step = (log_high - log_low) / (POINTS - 1)
    best, most = log_high, height(log_high)
    for point in range(POINTS - 2, -1, -1):  # from the least tau_other on: of equal heights the first counts
        here = log_low + point * step
        value = height(here)
        higher = value > most + TIE
        best, most = torch.where(higher, here, best), torch.where(higher, value, most)
    left, right = torch.maximum(best - step, log_low), torch.minimum(best + step, log_high)
    inner = _golden(height, left, right)
    value = height(inner)
    found = torch.where(value > most + TIE, inner, best)
    # The ends themselves: callers compare tau_other with them for equality.
    tau = torch.where(found <= log_low, upper, torch.where(found >= log_high, lower, (-found).exp()))
    flat = torch.isneginf(torch.maximum(value, most))
    plain = torch.minimum(torch.maximum(torch.full_like(tau, search.tau_target), lower), upper)
    return torch.where(flat, plain, tau)


def _golden(height: Callable[[Tensor], Tensor], left: Tensor, right: Tensor) -> Tensor:
    """Where a function of one maximum between left and right has it."""
    low, high = right - GOLDEN * (right - left), left + GOLDEN * (right - left)
    at_low, at_high = height(low), height(high)
    for _ in range(SECTIONS):
        to_right = at_low < at_high
        left, right = torch.where(to_right, low, left), torch.where(to_right, right, high)
        new = torch.where(to_right, left + GOLDEN * (right - left), right - GOLDEN * (right - left))
        value = height(new)
        low, high = torch.where(to_right, high, new), torch.where(to_right, new, low)
        at_low, at_high = torch.where(to_right, at_high, value), torch.where(to_right, value, at_low)
    return (left + right) / 2


def _must_be_known(rows: CondensedParts, lower: Tensor, upper: Tensor) -> None:
    if not len(lower):
        return
    low, high = float(lower.min()), float(upper.max())
    least, most = 2 / rows.betas[-1], 1 / rows.betas[0]
    if low < least * (1 - 1e-9) or high > most * (1 + 1e-9):
        raise InputError(
            f"expected bounds of ISATS within [{least:g}, {most:g}], the temperatures that condensed rows know, got "
            f"({low:g}, {high:g})"
        )
