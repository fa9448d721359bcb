"""The registry of losses, and the criterion that adds the cross-entropy."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from capmismatch._numerics.arrays import as_logits
from capmismatch.errors import InputError, must_be_one_of
from capmismatch.losses._terms import checked_labels, cross_entropy, must_be_tensors, must_be_weight, single
from capmismatch.losses.correlation import correlation_kd, dist, pld, rank_kd
from capmismatch.losses.curriculum import CurriculumKD
from capmismatch.losses.decoupled import dkd, nkd
from capmismatch.losses.divergences import abkd, js, reverse_kl, skewed_kl, skewed_reverse_kl, topk_kl
from capmismatch.losses.multilevel import mlkd
from capmismatch.losses.softened import ats, isats, kd, norm_kd, soft_cross_entropy, standardized_kd
from capmismatch.losses.transformed import dtkd, ttm, wttm
from capmismatch.losses.transport import wkd


@dataclass(frozen=True)
class Loss:
    """One entry of `LOSSES`.

    Attributes
    ----------
    term : callable or type of torch.nn.Module
        A function of ``(student, teacher[, labels], **options)``, or a module class with such a `forward`.
    ce_weight : float
        Weight of the cross-entropy in the source.
    kd_weight : float
        Weight of the term in the source.
    needs_labels : bool
        Whether the term takes the labels.
    warmup_epochs : int
        Over how many epochs the term's weight rises in the source; 0 for none.
    """

    term: Callable[..., Tensor] | type[nn.Module]
    ce_weight: float
    kd_weight: float
    needs_labels: bool = False
    warmup_epochs: int = 0


LOSSES: dict[str, Loss] = {
    "kd": Loss(kd, 0.1, 0.9),
    "soft_cross_entropy": Loss(soft_cross_entropy, 0.5, 0.5),
    "ats": Loss(ats, 0.5, 0.5, needs_labels=True),
    "isats": Loss(isats, 0.5, 0.5, needs_labels=True),
    "dkd": Loss(dkd, 1.0, 1.0, needs_labels=True, warmup_epochs=20),
    "norm_kd": Loss(norm_kd, 0.1, 0.9),
    "standardized_kd": Loss(standardized_kd, 0.1, 9.0),
    "dist": Loss(dist, 1.0, 1.0),
    "correlation_kd": Loss(correlation_kd, 1.0, 1.0),
    "rank_kd": Loss(rank_kd, 1.0, 1.0),
    "curriculum_kd": Loss(CurriculumKD, 0.1, 0.9),
    "reverse_kl": Loss(reverse_kl, 0.0, 1.0),
    "js": Loss(js, 0.0, 1.0),
    "skewed_kl": Loss(skewed_kl, 0.0, 1.0),
    "skewed_reverse_kl": Loss(skewed_reverse_kl, 0.0, 1.0),
    "topk_kl": Loss(topk_kl, 0.0, 1.0),
    "dtkd": Loss(dtkd, 1.0, 1.0, warmup_epochs=20),
    "ttm": Loss(ttm, 1.0, 45.0),
    "wttm": Loss(wttm, 1.0, 4.0),
    "nkd": Loss(nkd, 1.0, 1.0, needs_labels=True),
    "pld": Loss(pld, 0.0, 1.0, needs_labels=True),
    "abkd": Loss(abkd, 1.0, 32.0),
    "wkd": Loss(wkd, 1.0, 1.0, needs_labels=True),
    "mlkd": Loss(mlkd, 0.1, 0.9),
}


def options_of(name: str) -> list[str]:
    """The options that a loss takes, by their names.

    Examples
    --------
    >>> options_of("dtkd")
    ['tau', 'alpha', 'beta', 'center']
    """
    inputs = ("student", "teacher", "soft_labels", "labels", "check", "mask")
    return [key for key in inspect.signature(LOSSES[name].term).parameters if key not in inputs]


class Criterion(nn.Module):
    r"""Cross-entropy plus a distillation term, to call in any training loop.

    .. math:: w_{ce} \, H(y, p^s) + w_{kd} \, \min\big(1, \tfrac{e+1}{\mathrm{warmup}}\big) \, L_{term}
              + w_{rank} \, L_{rank}

    Parameters
    ----------
    name : str
        One of `LOSSES`.
    ce_weight : float, optional
        Weight of the cross-entropy, >= 0; by default that of the term's source, see `LOSSES`.
    kd_weight : float, optional
        Weight of the term, >= 0; by default that of its source.
    warmup_epochs : int, optional
        Over how many epochs the term's weight rises; by default as in its source.
    rank_weight : float, default 0
        Weight of `rank_kd`, as an auxiliary to the term; 0 leaves it out.
    ignore_index : int, optional
        Rows with this label count in neither term, such as the -100 of tokens that are not to be learnt.
    **options : Any
        Of the term, such as ``tau=2.0``.

    Raises
    ------
    InputError
        For an unknown name or option (lists the choices) and negative weights. When called, for logits that are not
        finite, labels outside [0, C), soft labels that do not sum to 1, and shapes that do not fit.

    See Also
    --------
    capmismatch.Method : A setting of a study, which makes its criterion itself.
    capmismatch.soft_labels : What "soft_cross_entropy" takes of the teacher, as a file.

    Notes
    -----
    The warm-up follows `set_epoch`; until that is called, the weight is full. ``Criterion("curriculum_kd")`` has a
    parameter of its own, for the optimiser.

    Values are checked in the first batch, and in the first after each `set_epoch`. In all others they are checked only
    if the loss fails or is not finite, which is noticed on the CPU alone: on other devices it would take a wait in
    every step.

    Examples
    --------
    >>> import torch
    >>> criterion = Criterion("kd", tau=4.0)
    >>> student = torch.zeros(2, 3, requires_grad=True)
    >>> loss = criterion(student, torch.tensor([0, 2]), torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 4.0]]))
    >>> loss.backward()
    >>> round(loss.item(), 4)
    1.8852
    """

    def __init__(
        self,
        name: str,
        *,
        ce_weight: float | None = None,
        kd_weight: float | None = None,
        warmup_epochs: int | None = None,
        rank_weight: float = 0.0,
        ignore_index: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        must_be_one_of(name, LOSSES, "the loss")
        entry = LOSSES[name]
        self.name = name
        self.needs_labels = entry.needs_labels
        self.ce_weight = entry.ce_weight if ce_weight is None else ce_weight
        self.kd_weight = entry.kd_weight if kd_weight is None else kd_weight
        self.rank_weight = rank_weight
        self.ignore_index = ignore_index
        self.warmup_epochs = entry.warmup_epochs if warmup_epochs is None else warmup_epochs
        for key in ("ce_weight", "kd_weight", "rank_weight", "warmup_epochs"):
            must_be_weight(getattr(self, key), key)
        self.options = options
        self.warmup = 1.0
        self._check_next = True  # the first batch of an epoch
        for option in options:
            must_be_one_of(option, options_of(name), f"an option of {name}")
        self.term: Callable[..., Tensor] = (
            entry.term(**options) if isinstance(entry.term, type) else partial(entry.term, **options)
        )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, for the warm-up and the curriculum."""
        if not (isinstance(epoch, int) and epoch >= 0):
            raise InputError(f"epoch must be a whole number >= 0, got {epoch!r}")
        self._check_next = True
        self.warmup = min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else 1.0
        if isinstance(self.term, CurriculumKD):
            self.term.set_epoch(epoch)

    def forward(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        student_logits : Tensor, shape (N, C)
            With gradient. Of sequences, (N, T, C); labels (N, T) and the teacher's logits have the same axis then.
        labels : Tensor of int, shape (N,)
            Classes of the examples, in [0, C), or `ignore_index`.
        teacher_logits : Tensor, shape (N, C) or (N, 2, C)
            For "soft_cross_entropy" soft labels, (N, C); with a `rank_weight` soft labels and logits, (N, 2, C):
            ``torch.stack([soft_labels, teacher_logits], 1)``.

        Returns
        -------
        Tensor
            Scalar, float32 or wider.
        """
        hard, soft = self.parts(student_logits, labels, teacher_logits)
        return soft + hard

    def parts(
        self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor, *, check: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the two summands of the loss, that of the labels and that of the teacher; see `forward`.

        Without `check` no value is looked at, as in a graph that is compiled, or under ``torch.func.vmap``.
        """
        inputs = self.counted(student_logits, labels, teacher_logits)
        if not check or torch.compiler.is_compiling():  # a check of values would break the graph
            return self._parts(*inputs, check=False)
        first, self._check_next = self._check_next, False
        if first:
            return self._parts(*inputs, check=True)
        try:
            hard, soft = self._parts(*inputs, check=False)
        except (IndexError, RuntimeError):  # such as a label that no class has
            self._parts(*inputs, check=True)
            raise
        if hard.device.type == "cpu" and not math.isfinite(hard.item() + soft.item()):
            return self._parts(*inputs, check=True)
        return hard, soft

    def counted(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows that count of all three, sequences one after the other; see `forward`."""
        must_be_tensors({"student logits": student_logits, "labels": labels, "teacher logits": teacher_logits})
        if labels.ndim == 2 and student_logits.ndim == 3:
            student_logits, teacher_logits = student_logits.flatten(0, 1), teacher_logits.flatten(0, 1)
            labels = labels.flatten()
        if self.ignore_index is None:
            return student_logits, labels, teacher_logits
        keep = labels != self.ignore_index
        if not keep.any():
            raise InputError(f"expected a row that counts, got the label {self.ignore_index} in all {len(labels)}")
        return student_logits[keep], labels[keep], teacher_logits[keep]

    def _parts(
        self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor, *, check: bool
    ) -> tuple[Tensor, Tensor]:
        student = as_logits(student_logits, place="student logits") if check else single(student_logits)
        y = checked_labels(labels, student, check)
        target, logits = self._teacher_inputs(student, teacher_logits)
        inputs = (student, target, y) if self.needs_labels else (student, target)
        soft = self.kd_weight * self.warmup * self.term(*inputs, check=check)
        hard = self.ce_weight * cross_entropy(student, y) if self.ce_weight else soft.new_zeros(())
        if self.rank_weight:
            soft = soft + self.rank_weight * rank_kd(student, logits, check=check)
        return hard, soft

    def _teacher_inputs(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """What the term takes of the teacher, and the teacher's logits for the rank term."""
        if not (self.rank_weight and self.name == "soft_cross_entropy"):
            return teacher, teacher
        rows, classes = student.shape
        if teacher.shape != (rows, 2, classes):
            raise InputError(
                f"expected soft labels and logits of shape {(rows, 2, classes)}, as rank_weight needs both, got "
                f"{tuple(teacher.shape)}"
            )
        return teacher[:, 0], teacher[:, 1]

    def diagnostics(self) -> dict[str, float]:
        """Return what there is to log beside the loss: the temperature of "curriculum_kd"."""
        return {"tau": float(self.term.tau)} if isinstance(self.term, CurriculumKD) else {}

    def extra_repr(self) -> str:
        """Return what `repr` shows between the brackets."""
        shown = {"ce_weight": self.ce_weight, "kd_weight": self.kd_weight, **self.options}
        return ", ".join([repr(self.name), *(f"{key}={value!r}" for key, value in shown.items())])
