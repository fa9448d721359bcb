"""Opening a bank, whatever it holds."""

from __future__ import annotations

import os
from pathlib import Path

from capmismatch.data.bank import LogitBank
from capmismatch.data.bank_files import read_token_rows


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
    rows, stored = read_token_rows(Path(path))
    if not stored and rows.sequences is None:
        return LogitBank(path)
    from capmismatch.data.token_bank import TokenBank  # loads torch, which banks of classifiers do without

    return TokenBank(path)
