"""The search of ISATS: the derived variance of each row as a function of tau_other, its interval and its maximiser.

`maximise` goes row by row in compiled code (`isats_loops`) where that works, and through tensor
operations elsewhere (`isats_tensors`, `devices`); both find the same to 1e-8, in the same way.

The search takes points a factor 4 apart and closes in on the maximum next to the highest. Then it splits what lies
between two points until it is sure that nothing there is higher, and closes in on every maximum that shows on the way
and may be. Ends count where G climbs towards them; of heights equal up to rounding, the lowest tau_other is taken.
Sure means: by these bounds, to within SLACK in log variance. Next to a maximum that has been closed in on no bound is
tight, and splitting would not end: there NEAR will do where the slopes at both points show no more than this maximum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from capmismatch._numerics import devices, isats_tensors
from capmismatch._numerics.isats_problem import Search
from capmismatch._numerics.threads import blocks, run_in_threads

if devices.HAS_NUMBA:
    from capmismatch._numerics import isats_loops as kernel

BLOCK_LOGITS = 1 << 16  # what a thread searches at a time


def maximise(search: Search, lower: Tensor, upper: Tensor) -> Tensor:
    """The tau_other in [lower, upper] that maximises the derived variance of each row, (N,); lower must be <= upper.

    Where the variance is zero whatever tau_other is (all wrong logits equal, or two classes), it is tau_target, as
    nearly as the interval allows: plain temperature scaling.
    """
    if not devices.uses_loops(lower.device):
        return _by_tensors(search, lower, upper)
    tau_other = torch.empty_like(lower)
    tensors = (search.below, search.target, search.top_wrong, lower, upper, tau_other)
    arrays = [tensor.contiguous().numpy() for tensor in tensors]

    def run(rows: slice) -> None:
        kernel.search_rows(search.tau_target, *(array[rows] for array in arrays))

    run_in_threads(run, blocks(len(tau_other), max(1, BLOCK_LOGITS // search.below.shape[1])), torch.get_num_threads())
    return tau_other


def _by_tensors(search: Search, lower: Tensor, upper: Tensor) -> Tensor:
    low, high = 1 / upper, 1 / lower
    beta = isats_tensors.maximiser(search, low, high)
    beta = torch.where(beta.isnan(), 1 / search.tau_target, beta)
    # The ends themselves, not their inverse's inverse: whether tau_other sits on one is told by equality.
    return torch.where(beta <= low, upper, torch.where(beta >= high, lower, 1 / beta))


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
