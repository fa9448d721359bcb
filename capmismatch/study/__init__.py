"""One folder, one ``study.toml``: settings, stages, pilot."""

from capmismatch.study.config import (
    CollectConfig,
    CorrelateConfig,
    DataConfig,
    DistillConfig,
    IsatsConfig,
    ProbeConfig,
    RanksConfig,
    StudyConfig,
)
from capmismatch.study.study import STAGES, Study, load_study

__all__ = [
    "STAGES",
    "CollectConfig",
    "CorrelateConfig",
    "DataConfig",
    "DistillConfig",
    "IsatsConfig",
    "ProbeConfig",
    "RanksConfig",
    "Study",
    "StudyConfig",
    "load_study",
]
