"""The logit bank: a lasting address for `capmismatch.data.bank`."""

from capmismatch.data.bank import SPLITS, LogitBank, Rows, TeacherRecord, bank_from_arrays, make_rows, teacher_key

__all__ = ["SPLITS", "LogitBank", "Rows", "TeacherRecord", "bank_from_arrays", "make_rows", "teacher_key"]
