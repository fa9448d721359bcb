r"""Remedies for capacity mismatch: distil for fewer epochs, from a younger teacher, or through assistants.

========================== ========================================================= =================================
remedy                     here                                                      source
========================== ========================================================= =================================
early-stopped teacher      `train_with_checkpoints`, then a family of checkpoints    Cho & Hariharan, arXiv 1910.01348
early-stopped distillation `EarlyStopped`; option ``stop_after`` of a method         the same
teacher assistants         `teach_through`; option ``assistants`` of a method        Mirzadeh et al., arXiv 1902.03393
gradient gate              `GradientGate`; option ``gate`` of a method               Zhu & Wang, ICCV 2021
========================== ========================================================= =================================

`EarlyStopped` and `GradientGate`, which are losses, are in `capmismatch.distillation.criteria`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from capmismatch._utils.files import locked, remove_temporaries, replacing
from capmismatch._utils.torchrun import local_device, process_group
from capmismatch.distillation.methods import Method
from capmismatch.errors import BankError, InputError
from capmismatch.training.loop import Checkpoint, Recipe, evaluate, fit


def train_with_checkpoints(
    network: nn.Module,
    views: Tensor,
    labels: Tensor,
    recipe: Recipe,
    folder: str | Path,
    epochs: Sequence[int],
    *,
    seed: int,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
    **options: Any,
) -> list[Path]:
    """Train a network in place and keep its weights after some of the epochs: early-stopped teachers of one run.

    A teacher that was stopped early is less accurate and less confident, and can teach a small student better. The
    checkpoints are written to `folder` as ``epoch005.safetensors``, ... and are a family, each teacher named by its
    epoch: ``load_family("ckpt:FOLDER/epoch*.safetensors", builder=...)``, which takes the ``epoch5.pt``, ... of
    another trainer as well.

    Parameters
    ----------
    network : torch.nn.Module
        To train; see `capmismatch.training.loop.fit`, also for what follows.
    views : Tensor, shape (V, N, ...)
        Raw inputs, V stored views of N examples.
    labels : Tensor of int, shape (N,)
        Classes of the examples.
    recipe : Recipe
        How to train.
    folder : str or Path
        Where the checkpoints go. Its name is the family's.
    epochs : sequence of int
        After how many epochs to keep the weights, each in [1, recipe.epochs].
    seed : int
        Of all random draws.
    prepare : callable, default the identity
        Turns a raw batch into what the network takes.
    **options : Any
        Others of `fit`, such as `device`; `criterion` and `soft` for a teacher that is a student itself.

    Returns
    -------
    list of Path
        The files, in the order of their epochs.

    See Also
    --------
    capmismatch.load_family : Open the files as a family of teachers.
    capmismatch.distillation.criteria.EarlyStopped : Stop the distillation early instead.

    References
    ----------
    Cho & Hariharan, "On the efficacy of knowledge distillation", ICCV 2019, arXiv 1910.01348.

    Examples
    --------
    >>> import tempfile
    >>> x, y = torch.randn(1, 20, 4), torch.arange(20) % 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = train_with_checkpoints(nn.Linear(4, 2), x, y, Recipe(epochs=10), folder, [2, 10], seed=0)
    ...     [file.name for file in files]
    ['epoch02.safetensors', 'epoch10.safetensors']
    """
    distinct, digits = sorted(set(epochs)), len(str(recipe.epochs))
    bad = next((epoch for epoch in distinct if not (isinstance(epoch, int) and 1 <= epoch <= recipe.epochs)), None)
    if bad is not None or not distinct:
        value = bad if distinct else list(epochs)
        raise InputError(f"expected epochs to keep in [1, {recipe.epochs}], the recipe's, got {value!r}")
    files = {epoch: Path(folder) / f"epoch{epoch:0{digits}d}.safetensors" for epoch in distinct}

    def keep(epoch: int, loss: float) -> None:
        if epoch + 1 in files:
            _write_weights(network, files[epoch + 1])

    fit(network, views, labels, recipe, seed=seed, prepare=prepare, after_epoch=keep, **options)
    return list(files.values())


def teach_through(
    networks: Sequence[nn.Module],
    logits: Tensor,
    method: Method,
    views: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
    device: str = "cpu",
    folder: str | Path | None = None,
    **options: Any,
) -> Tensor:
    """Teacher assistants: distil a teacher through a chain of networks, each from the one before.

    Every network is trained in place on the same stored views, by the same method; its own logits on these views then
    teach the next. In the paper sizes fall along the chain: teacher > assistants > student.

    Parameters
    ----------
    networks : sequence of torch.nn.Module
        To train, in order. The last may be the student.
    logits : Tensor, shape (V, N, C)
        Of the first teacher on the views.
    method : Method
        Of every link. Its own ``assistants`` are not used; `networks` takes their place.
    views : Tensor, shape (V, N, ...)
        Raw inputs, V stored views of N examples.
    labels : Tensor of int, shape (N,)
        Classes of the examples, in [0, C).
    recipe : Recipe
        How to train.
    seed : int
        Of all random draws.
    prepare : callable, default the identity
        Turns a raw batch into what the networks take.
    device : str, default "cpu"
        Where to train, such as "cuda".
    folder : str or Path, optional
        Of this chain alone. It keeps each network's weights, ``link1.safetensors``, ..., and a checkpoint of the one in
        training. Called again, also after a kill, finished networks are loaded and not trained again; another process
        that needs the same chain waits.
    **options : Any
        Others of `capmismatch.training.loop.fit`.

    Returns
    -------
    Tensor, shape (V, N, C)
        Logits of the last network on the views, to teach the next; `logits` themselves if there are no networks.

    References
    ----------
    Mirzadeh et al., "Improved knowledge distillation via teacher assistant", AAAI 2020, arXiv 1902.03393.

    Examples
    --------
    >>> x, y = torch.randn(1, 20, 4), torch.arange(20) % 2
    >>> assistant, student, teacher = nn.Linear(4, 2), nn.Linear(4, 2), 4.0 * nn.functional.one_hot(y)[None]
    >>> teach_through([assistant, student], teacher, Method("KD"), x, y, Recipe(epochs=2), seed=0).shape
    torch.Size([1, 20, 2])
    """
    if logits.ndim != 3 or logits.shape[:2] != views.shape[:2]:
        expected = (*views.shape[:2], "C")
        raise InputError(f"expected logits of the teacher on every view, {expected}, got {tuple(logits.shape)}")
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    for number, network in enumerate(networks, start=1):
        network.to(local_device(device)).to(memory_format=layout)  # as `fit` leaves it: rounding depends on the layout
        flat = method.soft_labels(logits.flatten(0, 1), labels.repeat(len(logits)))
        train = partial(
            fit,
            network,
            views,
            labels,
            recipe,
            seed=seed,
            prepare=prepare,
            device=device,
            criterion=method.criterion(network, recipe.epochs),
            soft=flat.float().unflatten(0, views.shape[:2]),
            **options,
        )
        if folder is None:
            train()
        else:
            _train_once(network, train, Path(folder) / f"link{number}.safetensors")
        logits = torch.stack([evaluate(network, view, prepare) for view in views])
    return logits


def _train_once(network: nn.Module, train: Callable[..., Any], file: Path) -> None:
    """Load a network's weights from its file, or else train it, from its checkpoint if there is one, and write them."""

    def is_missing() -> bool:
        locks.enter_context(locked(file.parent / ".lock"))
        remove_temporaries(file.parent)
        return not file.exists()

    with process_group() as processes, ExitStack() as locks:
        if processes.on_rank_zero(is_missing):
            checkpoint = Checkpoint(file.with_suffix(".checkpoint"))
            train(checkpoint=checkpoint)
            processes.on_rank_zero(lambda: _write_weights(network, file))
            processes.on_rank_zero(checkpoint.remove)
            return
    try:
        network.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        raise BankError(f"{file} is damaged, remove it to train that network again: {error}") from None
    network.eval()


def _write_weights(network: nn.Module, file: Path) -> None:
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with replacing(file) as temporary:
        temporary.write_bytes(save(weights))
