"""Probes: what can be read off a teacher's logits before distilling. Pure functions, one registry.

>>> from capmismatch import probes
>>> probes.derived_variance([[2.0, 1.0, 0.0]], [0], tau=4.0).shape
torch.Size([1])
"""

from capmismatch._numerics.class_means import AroundClass
from capmismatch._numerics.softmax import Softened
from capmismatch.probes._registry import REGISTRY, Probe, expected_signs, per_example
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
from capmismatch.probes.groups import class_variance, find_groups, group_variance
from capmismatch.probes.logits import logit_norm, logit_std, max_logit, max_wrong_logit, mean_logit, target_logit
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
    "REGISTRY",
    "AroundClass",
    "Probe",
    "Softened",
    "accuracy",
    "adaptive_error",
    "brier",
    "brier_tau",
    "calibration_bins",
    "calibration_tau",
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
    "effective_wrong",
    "entropy",
    "expected_signs",
    "find_groups",
    "group_variance",
    "inherent_variance",
    "log_params",
    "logit_norm",
    "logit_std",
    "matching_tau",
    "max_logit",
    "max_wrong_logit",
    "mean_logit",
    "nll",
    "nll_tau",
    "non_target_mass",
    "per_example",
    "scaled_derived_variance",
    "target_logit",
    "target_prob",
    "within_class_spread",
    "wrong_entropy",
]
