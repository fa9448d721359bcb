"""The problem that ISATS solves for each example, and the tolerances that both solvers share.

With beta = 1 / tau_other, e_c = exp(beta f_c), and sums over the K = C - 1 wrong classes, the log variance is

    G = A + 2 log beta - L,   A = log(sum e^2 - (sum e)^2 / K) - 2 log beta,   L = 2 log(exp(f_y / tau_target) + sum e)

up to a constant. A and L are convex in beta: L is a log-sum-exp; the bracket in A is a sum over pairs of classes, of
(2 / K) exp(beta (f_i + f_j)) sinh^2(beta (f_i - f_j) / 2), and with sinh(x) / x its sum over beta^2 is log-convex, too.
So two points bound G in between: A lies below its chord, L above its tangents, and the slopes of both grow. Moreover,
with D = sum (q~ - 1/K)^2, G is 2 log(1 - p_y) + log D up to a constant, where log D grows with beta, and log(1 - p_y),
which falls before it climbs, is highest at one of the two points.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

# In log variance: how much higher the part that is not looked at may be; and the same next to a maximum that has been
# closed in on, where the slopes at both ends show no other.
SLACK, SLACK_AT_MAXIMUM = 1e-8, 5e-2
UNEXPLAINED = 0.1  # share of a fall of G that its slopes may leave unexplained for G to look simple there
TIE = 1e-12  # in log variance: heights that differ by less are equal up to rounding
MOST_SPLITS = 1000  # of an example; few need ten, those whose variance hardly changes over a wide range hundreds


class Search(NamedTuple):
    """The derived variance of each row as a function of its tau_other.

    Attributes
    ----------
    target : Tensor, shape (N,)
        f_y / tau_target.
    top_wrong : Tensor, shape (N,)
        Largest wrong logit, not divided.
    below : Tensor, shape (N, K), or CondensedParts
        Wrong logits less their largest, or condensed rows.
    tau_target : float
        Temperature of the target's logit.
    """

    target: Tensor
    top_wrong: Tensor
    below: Any
    tau_target: float

    def rows(self, index: Tensor) -> Search:
        """The same for some rows."""
        return Search(self.target[index], self.top_wrong[index], self.below[index], self.tau_target)

    def on_top(self, tau_other: Tensor) -> Tensor:
        """Whether the target's logit is at least the largest wrong one after division, up to rounding, (N,)."""
        top = self.top_wrong / tau_other
        return self.target - top >= -1e-12 * (self.target.abs() + top.abs())
