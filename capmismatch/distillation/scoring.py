"""What is measured on a trained student: how often it is right, and how far it follows its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

TAUS = {"kl": 1.0, "kl_tau4": 4.0}
"""Columns of the divergence between teacher and student -> the temperature of both softmaxes."""


@dataclass(frozen=True)
class TeacherOutputs:
    """A teacher's logits on the rows that students are measured on.

    Attributes
    ----------
    logits : Tensor, shape (N, C)
        In the order of the rows.
    """

    logits: Tensor

    @property
    def bytes(self) -> int:
        """Memory that the logits and what is made of them take."""
        return (1 + len(TAUS)) * self.logits.nbytes

    @cached_property
    def top(self) -> Tensor:
        """The class that the teacher takes for the most likely, (N,)."""
        return self.logits.argmax(1)

    @cached_property
    def softened(self) -> dict[str, tuple[Tensor, Tensor]]:
        """For each column of `TAUS` the probabilities (N, C), and the sum of p log p over the classes (N,)."""
        logs = {name: torch.log_softmax(self.logits / tau, 1) for name, tau in TAUS.items()}
        return {name: (log.exp(), (log.exp() * log).sum(1)) for name, log in logs.items()}


@dataclass(frozen=True)
class MeasuredRows:
    """Examples on which students are measured, split by split.

    Attributes
    ----------
    labels : Tensor of int, shape (N,)
        Classes.
    splits : dict of str to slice
        Where the rows of each split lie.
    """

    labels: Tensor
    splits: Mapping[str, slice]

    def measure(self, logits: Tensor, teacher: TeacherOutputs | None = None) -> dict[str, dict[str, Any]]:
        r"""Measure a student on each split.

        .. math:: \text{fidelity} = \frac1N \sum_i [\arg\max f^s_i = \arg\max f^t_i], \qquad
                  \text{kl} = \frac1N \sum_i \mathrm{KL}\big(p^t_\tau(x_i) \,\|\, p^s_\tau(x_i)\big)

        Parameters
        ----------
        logits : Tensor, shape (N, C)
            The student's.
        teacher : TeacherOutputs, optional
            Whom to compare it with. Without one there is no fidelity.

        Returns
        -------
        dict
            By split: "accuracy" and "n"; with a teacher also "fidelity", the share of rows for which both name the same
            class, and "kl" and "kl_tau4", the mean divergence in nats at temperatures 1 and 4.

        References
        ----------
        Stanton et al., "Does knowledge distillation really work?", NeurIPS 2021, arXiv 2106.05945: agreement and
        divergence as measures of fidelity.

        Examples
        --------
        >>> rows = MeasuredRows(torch.tensor([0, 1]), {"val": slice(0, 2)})
        >>> student, teacher = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> {name: round(value, 3) for name, value in rows.measure(student, TeacherOutputs(teacher))["val"].items()}
        {'accuracy': 0.5, 'n': 2, 'fidelity': 0.5, 'kl': 0.545, 'kl_tau4': 0.039}
        """
        largest, top = logits.max(1)
        below = logits - largest[:, None]  # a constant in all logits of a row changes nothing, and costs digits
        normalisers = {} if teacher is None else _log_sums(below)
        measured: dict[str, dict[str, Any]] = {}
        for split, rows in self.splits.items():
            count = rows.stop - rows.start
            values: dict[str, Any] = {"accuracy": _share(top[rows] == self.labels[rows]), "n": count}
            if teacher is not None:
                values["fidelity"] = _share(top[rows] == teacher.top[rows])
                for name, tau in TAUS.items():
                    probabilities, negentropy = (part[rows] for part in teacher.softened[name])
                    crossed = (probabilities * below[rows]).sum(dtype=torch.float64) / (tau * count)
                    divergence = (negentropy + normalisers[name][rows]).double().mean() - crossed
                    values[name] = max(0.0, float(divergence))
            measured[split] = values
        return measured


def _share(hits: Tensor) -> float:
    return int(hits.sum()) / len(hits)


def _log_sums(below: Tensor) -> dict[str, Tensor]:
    """Logarithms of the sums of exp(b / tau), (N,), at each of `TAUS`; the powers of one exponential serve both."""
    quarter = (below / TAUS["kl_tau4"]).exp_()
    sums = {"kl_tau4": quarter.sum(1)}
    sums["kl"] = quarter.square_().square_().sum(1)
    return {name: value.log() for name, value in sums.items()}
