"""Small recurrent language models: from windows of tokens to the logits of each next token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from capmismatch.architectures._gru_cpu import gru_layer
from capmismatch.architectures.registry import register


class GRULanguageModel(nn.Module):
    """Embedding, one layer of gated recurrent units, and a linear layer to the vocabulary, all of one width.

    At small budgets it learns sooner than a transformer of its size, in a time that a CPU has.

    Parameters
    ----------
    width : int
        Of all layers.
    vocabulary : int
        How many tokens there are.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (N, T) to logits (N, T, vocabulary); those of a position are of the token after it."""
        x = self.embedding(tokens)
        # A device other than the CPU has a kernel for all steps, and without a gradient PyTorch's own loop is as quick.
        by_hand = x.device.type == "cpu" and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        logits: Tensor = self.head(gru_layer(self.gru, x) if by_hand else self.gru(x)[0])
        return logits


@register("gru{width}", listed=tuple(f"gru{width}" for width in (16, 32, 64, 128, 256)))
def gru(num_classes: int, *, width: int) -> nn.Module:
    """A language model of one GRU layer (Cho et al., arXiv 1406.1078); `num_classes` is its vocabulary."""
    return GRULanguageModel(width, num_classes)
