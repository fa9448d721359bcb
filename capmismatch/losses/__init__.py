r"""Distillation losses: pure functions of student and teacher logits, and one criterion that adds the cross-entropy.

Every function takes the student's logits (N, C), with gradient, and the teacher's (N, C), and returns the distillation
term alone: the mean over the batch, with the temperature factor of its source. Some take the labels, the classes of the
examples, as well.

======================= ================================================================= ============================
name                    term                                                              source
======================= ================================================================= ============================
`kd`                    :math:`\tau^2` KL(teacher || student) at one temperature          Hinton, arXiv 1503.02531
`soft_cross_entropy`    cross-entropy with soft labels                                    arXiv 1503.02531
`ats`, `isats`          the same with the teacher's ATS or ISATS soft labels              arXiv 2210.04427, 2405.13078
`dkd`                   target and non-target parts of KL, with a weight each             arXiv 2203.08679
`norm_kd`               KL, each example at a temperature from its logits' deviation      arXiv 2308.00520
`standardized_kd`       KL of z-scored logits                                             arXiv 2403.01427
`dist`                  1 - Pearson correlation, along classes and along the batch        arXiv 2205.10536
`correlation_kd`        1 - Pearson and 1 - soft Spearman correlation, along classes      arXiv 2410.06561
`rank_kd`               1 - smooth Kendall tau between the orders of classes              arXiv 2409.17823
`curriculum_kd`         `kd` whose temperature is learnt against the student              arXiv 2211.16231
`reverse_kl`            KL(student || teacher)                                            MiniLLM, arXiv 2306.08543
`js`                    Jensen-Shannon, between `kd` and `reverse_kl`                     GKD, arXiv 2306.13649
`skewed_kl`             KL(teacher || a mixture with the student)                         DistiLLM, arXiv 2402.03898
`skewed_reverse_kl`     KL(student || a mixture with the teacher)                         arXiv 2402.03898
`topk_kl`               `kd` over the teacher's k likeliest classes                       DistillKit, axolotl, MaxText
`dtkd`                  KL at temperatures shared out by the largest logits, plus `kd`    arXiv 2404.12711
`ttm`, `wttm`           KL with a softened teacher and a plain student; examples weighted arXiv 2402.11148
`nkd`                   cross-entropies of target and wrong classes, each by itself       arXiv 2303.13005
`pld`                   likelihood of the teacher's order, label first                    arXiv 2506.12542
`abkd`                  alpha-beta divergence, from KL to reverse KL                      arXiv 2505.04560
`wkd`                   cost of moving the wrong classes' probability                     arXiv 2412.08139
`mlkd`                  `kd` at several temperatures, pairs of examples and of classes    CVPR 2023
======================= ================================================================= ============================

Gradients flow to the student alone. Half-precision logits are converted to float32, also under autocast. Finite logits
give finite values and gradients, even where a row is constant or a softmax saturates: then a term that divides by the
row's deviation divides by 1 instead, and a correlation counts as 0.

`Criterion` is what a training loop calls; `LOSSES` is the registry by name.
"""

from __future__ import annotations

from capmismatch.losses.correlation import correlation_kd, dist, pld, rank_kd
from capmismatch.losses.criterion import LOSSES, Criterion, Loss
from capmismatch.losses.curriculum import CurriculumKD, curriculum_kd, curriculum_strength
from capmismatch.losses.decoupled import dkd, nkd
from capmismatch.losses.divergences import abkd, js, listed_kl, reverse_kl, skewed_kl, skewed_reverse_kl, topk_kl
from capmismatch.losses.multilevel import mlkd
from capmismatch.losses.softened import ats, isats, kd, norm_kd, soft_cross_entropy, standardized_kd
from capmismatch.losses.transformed import dtkd, ttm, wttm
from capmismatch.losses.transport import wkd

__all__ = [
    "LOSSES",
    "Criterion",
    "CurriculumKD",
    "Loss",
    "abkd",
    "ats",
    "correlation_kd",
    "curriculum_kd",
    "curriculum_strength",
    "dist",
    "dkd",
    "dtkd",
    "isats",
    "js",
    "kd",
    "listed_kl",
    "mlkd",
    "nkd",
    "norm_kd",
    "pld",
    "rank_kd",
    "reverse_kl",
    "skewed_kl",
    "skewed_reverse_kl",
    "soft_cross_entropy",
    "standardized_kd",
    "topk_kl",
    "ttm",
    "wkd",
    "wttm",
]
