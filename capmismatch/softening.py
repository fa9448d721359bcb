"""Soft labels as files: a lasting address for `capmismatch.distillation.soft_label_files`."""

from capmismatch.distillation.soft_label_files import SoftLabels, load_soft_labels, soft_labels

__all__ = ["SoftLabels", "load_soft_labels", "soft_labels"]
