"""Opening a bank, whatever it holds."""

from __future__ import annotations

import os
from pathlib import Path

from capmismatch.data.bank import LogitBank
from capmismatch.data.bank_files import has_sequences, read_settings


def open_bank(path: str | os.PathLike[str]) -> LogitBank:
    """Open the bank in a folder, whatever it holds.

    Parameters
    ----------
    path : str or Path
        Folder of the bank.

    Returns
    -------
    LogitBank or TokenBank
        A `TokenBank` where rows are condensed, or are positions of sequences.

    Raises
    ------
    BankError
        Where the folder holds no bank, or a file of it is damaged or does not belong to it.
    """
    folder = Path(path)
    if not read_settings(folder) and not has_sequences(folder):
        return LogitBank(path)
    from capmismatch.data.token_bank import TokenBank  # loads torch, which banks of classifiers do without

    return TokenBank(path)
