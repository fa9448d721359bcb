"""Teachers that are trained here when they are first needed, with their weights kept in a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from capmismatch._utils.files import locked, replacing
from capmismatch._utils.machine import threads
from capmismatch.errors import BankError, InputError, must_count
from capmismatch.sources._weights import hash_network

MOST_UNITS, MOST_SEEDS = 10_000, 1_000
"""More would ask for memory and time out of proportion to data as small as these."""


def must_be_widths(widths: Sequence[int], seeds: int, source: str) -> list[int]:
    """The widths of networks that a source trains, as plain integers.

    Parameters
    ----------
    widths : sequence of int
        In [1, 10,000].
    seeds : int
        Training runs per width, in [1, 1,000].
    source : str
        Such as "lm:gru", for messages.

    Raises
    ------
    InputError
        Where there is no width, or a number lies outside its range.

    Examples
    --------
    >>> must_be_widths(range(8, 25, 8), 1, "lm:gru")
    [8, 16, 24]
    """
    if not len(widths):
        raise InputError(f"expected at least one width of {source}, got none")
    must_count(seeds, "seeds", most=MOST_SEEDS)
    for width in widths:
        must_count(width, f"a width of {source}", most=MOST_UNITS)
    return [int(width) for width in widths]


def trained(
    file: Path, seed_text: str, build: Callable[[], nn.Module], train: Callable[[nn.Module], object]
) -> Callable[[], nn.Module]:
    """A function that gives the trained network: from its file, or trained now, in one thread and under a lock.

    Parameters
    ----------
    file : Path
        Of the weights; its name stands for all that decides them.
    seed_text : str
        Seeds the initial weights. No student of a study has such a text, so no student starts where a teacher did.
    build : callable
        Makes the network with fresh weights.
    train : callable
        Trains it in place.

    Returns
    -------
    callable
        Raises BankError where the file is damaged.
    """

    def make() -> nn.Module:
        # The caller's random state is as if nothing had been drawn here.
        with locked(file.with_suffix(".lock")), torch.random.fork_rng(devices=[]):
            network = initial(seed_text, build)
            if not file.exists():
                # A second thread would only slow down so small a network; under torchrun each process trains alone.
                with threads(1):
                    train(network)
                with replacing(file) as temporary:
                    about = {"teacher": file.stem, "sha256": hash_network(network)}
                    temporary.write_bytes(save(network.state_dict(), about))
            try:
                network.load_state_dict(load_file(file))
                _check_weights(file, network)
            except (SafetensorError, RuntimeError) as error:
                raise BankError(f"{file} is damaged, remove it to train that teacher again: {error}") from None
        return network.eval()

    return make


def initial(seed_text: str, build: Callable[[], nn.Module]) -> nn.Module:
    """The network as its training begins; torch's random state is left where its weights were drawn."""
    torch.manual_seed(int(hashlib.sha256(seed_text.encode()).hexdigest()[:8], 16))
    return build()


def _check_weights(file: Path, network: nn.Module) -> None:
    """Raise where a file holds other weights than those that were trained for it; files of before do not say."""
    with safe_open(file, "pt") as opened:
        about = opened.metadata() or {}
    if about and (about.get("teacher"), about.get("sha256")) != (file.stem, hash_network(network)):
        raise BankError(f"{file} holds other weights than were trained for it: remove it to train that teacher again")


def cache_folder() -> Path:
    """Where capmismatch stores weights that it trained outside a study."""
    given = os.environ.get("CAPMISMATCH_CACHE", "").strip()  # empty is as good as not set, and not this folder
    return Path(given).expanduser() if given else Path.home() / ".cache" / "capmismatch"
