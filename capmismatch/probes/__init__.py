"""Probes: what can be read off a teacher's logits before distilling. Pure functions, one registry.

>>> from capmismatch import probes
>>> probes.derived_variance([[2.0, 1.0, 0.0]], [0], tau=4.0).shape
torch.Size([1])
"""

from capmismatch._numerics.class_means import AroundClass
from capmismatch._numerics.softmax import Softened
from capmismatch.probes._registry import REGISTRY, Probe, per_example
from capmismatch.probes._signs import expected_signs
from capmismatch.probes.calibration import (
    accuracy,
    adaptive_error,
    brier,
    calibration_bins,
    classwise_ace,
    confidence,
    confidence_gap,
    ece,
    ece_over,
    ece_under,
    nll,
)
from capmismatch.probes.features import FEATURES, cka, effective_rank, h_score, logme, nc1
from capmismatch.probes.groups import class_variance, find_groups, group_variance
from capmismatch.probes.logits import logit_norm, logit_std, max_logit, max_wrong_logit, mean_logit, target_logit
from capmismatch.probes.pairs import (
    PAIRS,
    PairProbe,
    grace,
    gradient_cosine,
    kl,
    reverse_kl,
    rsr,
    size_gap,
    size_ratio,
    skewed_kl,
    wrong_rsr,
)
from capmismatch.probes.size import log_params
from capmismatch.probes.spread import class_means, cmi, within_class_spread
from capmismatch.probes.temperatures import calibration_tau, matching_tau
from capmismatch.probes.tempered import brier_tau, classwise_ace_tau, ece_tau, nll_tau
from capmismatch.probes.variance import (
    derived_average,
    derived_std,
    derived_variance,
    effective_wrong,
    entropy,
    inherent_variance,
    non_target_mass,
    scaled_derived_variance,
    target_prob,
    wrong_entropy,
)

__all__ = [
    "FEATURES",
    "PAIRS",
    "REGISTRY",
    "AroundClass",
    "PairProbe",
    "Probe",
    "Softened",
    "accuracy",
    "adaptive_error",
    "brier",
    "brier_tau",
    "calibration_bins",
    "calibration_tau",
    "cka",
    "class_means",
    "class_variance",
    "classwise_ace",
    "classwise_ace_tau",
    "cmi",
    "confidence",
    "confidence_gap",
    "derived_average",
    "derived_std",
    "derived_variance",
    "ece",
    "ece_over",
    "ece_tau",
    "ece_under",
    "effective_rank",
    "effective_wrong",
    "entropy",
    "expected_signs",
    "find_groups",
    "grace",
    "gradient_cosine",
    "group_variance",
    "h_score",
    "inherent_variance",
    "kl",
    "log_params",
    "logit_norm",
    "logit_std",
    "logme",
    "matching_tau",
    "max_logit",
    "max_wrong_logit",
    "mean_logit",
    "nc1",
    "nll",
    "nll_tau",
    "non_target_mass",
    "per_example",
    "reverse_kl",
    "rsr",
    "scaled_derived_variance",
    "size_gap",
    "size_ratio",
    "skewed_kl",
    "target_logit",
    "target_prob",
    "within_class_spread",
    "wrong_entropy",
    "wrong_rsr",
]
