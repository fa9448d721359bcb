"""The search of ISATS: the derived variance of each row as a function of tau_other, its interval and its maximiser.

The search evaluates points a factor 4 apart and closes in on the maximum next to the highest. Then it splits the spans
between two points until it is sure that nothing inside is higher, and closes in on every maximum that appears on the
way and may be higher. Ends count where G climbs towards them; of heights equal up to rounding, the lowest tau_other is
taken. Sure means: by the bounds of `isats_problem`, to within SLACK in log variance. Next to a maximum that has been
closed in on no bound is tight, and splitting would not end: there SLACK_AT_MAXIMUM is enough where the slopes at both
points show no more than this maximum.

It is written twice. `isats_tensors` is the reference: all rows at a time, in plain tensor operations. `isats_loops` is
the same row by row in compiled code, and what a CPU runs. Both find the same to 1e-8, which tests check. The steps:

==============================================  =====================================  ==============================
step                                            `isats_tensors`                        `isats_loops`
==============================================  =====================================  ==============================
G and its parts at one beta                     `points`                               `_fill`
first points, a factor 4 apart                  `_scan`                                `_scan`
is G surely below a limit between two points?   `_below`, `_most`                      `_below`, `_most`
is a maximum surely between them?               `Spans.fresh`                          `_holds_maximum`
does G just fall from a maximum?                `_look_simple`                         `_looks_simple`
may a span be left alone?                       `maximiser`, its loop                  `_settled`
split a span                                    `Spans.split`                          `_split`
close in on a maximum                           `_root` (regula falsi, Illinois)       `_climb` (Newton, bisection)
the best of the maxima                          `Best.beta`                            `_search_row`, its last loop
==============================================  =====================================  ==============================
"""

from __future__ import annotations

import torch
from torch import Tensor

from capmismatch._numerics import devices, isats_tensors
from capmismatch._numerics.condensed import CondensedParts
from capmismatch._numerics.isats_condensed import maximise_condensed
from capmismatch._numerics.isats_problem import Search
from capmismatch._numerics.threads import rows_in_threads

if devices.HAS_NUMBA:
    from capmismatch._numerics import isats_loops as kernel

BLOCK_LOGITS = 1 << 16  # that a thread searches at a time


def maximise(search: Search, lower: Tensor, upper: Tensor) -> Tensor:
    """The tau_other in [lower, upper] that maximises the derived variance of each row.

    Where the variance is zero whatever tau_other is (all wrong logits equal, or two classes), it is tau_target, as
    nearly as the interval allows: plain temperature scaling.

    Parameters
    ----------
    search : Search
        N rows.
    lower, upper : Tensor, shape (N,)
        Interval of tau_other, 0 < lower <= upper.

    Returns
    -------
    Tensor
        Shape (N,), tau_other.
    """
    if isinstance(search.below, CondensedParts):
        return maximise_condensed(search, lower, upper)
    if not devices.uses_loops(lower.device):
        return _by_tensors(search, lower, upper)
    tau_other = torch.empty_like(lower)
    tensors = (search.below, search.target, search.top_wrong, lower, upper, tau_other)
    arrays = [tensor.contiguous().numpy() for tensor in tensors]

    def run(rows: slice) -> None:
        kernel.search_rows(search.tau_target, *(array[rows] for array in arrays))

    rows = max(1, BLOCK_LOGITS // max(1, search.below.shape[1]))
    rows_in_threads(run, len(tau_other), rows, torch.get_num_threads())
    return tau_other


def _by_tensors(search: Search, lower: Tensor, upper: Tensor) -> Tensor:
    low, high = 1 / upper, 1 / lower
    beta = isats_tensors.maximiser(search, low, high)
    beta = torch.where(beta.isnan(), 1 / search.tau_target, beta)
    # The ends themselves, not their inverse's inverse: callers compare tau_other with them for equality.
    return torch.where(beta <= low, upper, torch.where(beta >= high, lower, 1 / beta))


def order_interval(
    search: Search, on_top: Tensor, margin: float, lower: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor]:
    """Narrow [lower, upper], for rows with the target on top, to f_y/tau_target - max_wrong f/tau_other >= margin."""
    room = search.target - margin  # the constraint reads top_wrong / tau_other <= room
    limit = search.top_wrong / room
    positive = search.top_wrong > 0
    # top_wrong > 0: tau_other >= limit if there is room, else no tau_other is enough and the largest comes nearest.
    narrow_lower = torch.where(positive, torch.where(room > 0, limit, torch.inf), lower)
    # top_wrong <= 0: always fulfilled with room >= 0, else tau_other <= limit.
    narrow_upper = torch.where(~positive & (room < 0), limit, upper)
    narrow_lower = torch.where(on_top, torch.maximum(lower, narrow_lower), lower)
    narrow_upper = torch.where(on_top, torch.minimum(upper, narrow_upper), upper)
    return torch.minimum(narrow_lower, upper), torch.maximum(narrow_upper, lower)
