"""A bidirectional LSTM that gives every word a tag."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

__all__ = ["PADDING", "BiLSTM"]

PADDING = 0
"""The number that stands for no word."""


class BiLSTM(nn.Module):
    """Word embeddings, bidirectional LSTM layers and a linear layer that gives every word a tag.

    Dropout precedes the last two parts and stands between the LSTM layers. Sentences are packed first, so that neither
    outputs nor dropout depend on how far they are padded.

    Example:
        >>> import torch
        >>> BiLSTM(vocabulary=9, tags=5, embedding=4, hidden=3, layers=2)(torch.tensor([[1, 2, 0], [3, 4, 5]])).shape
        torch.Size([2, 3, 5])
    """

    def __init__(
        self, *, vocabulary: int, tags: int, embedding: int, hidden: int, layers: int, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        between = dropout if layers > 1 else 0.0  # torch warns of dropout between the layers of one
        self.lstm = nn.LSTM(embedding, hidden, layers, bidirectional=True, dropout=between, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * hidden, tags)

    def forward(self, words: Tensor) -> Tensor:
        """Score the tags of every word, shape (N, T) -> (N, T, tags); zeros at the ``PADDING`` behind a sentence."""
        lengths = (words != PADDING).sum(1).cpu()
        packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        states, _ = self.lstm(_mapped(packed, self.dropout(self.embedding(packed.data))))
        scores = _mapped(packed, self.out(self.dropout(states.data)))
        padded, _ = pad_packed_sequence(scores, batch_first=True, total_length=words.shape[1])
        return padded


def _mapped(packed: PackedSequence, data: Tensor) -> PackedSequence:
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
