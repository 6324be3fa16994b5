"""The transformer: encoder over feature cells, decoder over queries (arXiv 2005.12872, A.3 and figure 10).

Sequences are (B, length, channels). Positions are added to queries and keys of every attention, never to values.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phidet.architectures.detr.config import TransformerConfig


class Attention(nn.Module):
    """Multi-head attention (arXiv 1706.03762, section 3.2.2); the first projections of all three lie in one matrix."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        # Named and laid out as those of torch.nn.MultiheadAttention, which published files come from.
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attended: Tensor | None = None) -> Tensor:
        """
        Args:
            query: (B, N, C).
            key, value: (B, M, C).
            attended: (B, 1, 1, M) bool, false for keys to leave out; ``None`` for none.

        Returns:
            (B, N, C).
        """
        q, k = self._queries_and_keys(query, key)
        v = self._heads_of(value, 2)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attended, dropout)
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return projected

    def weights(self, query: Tensor, key: Tensor, attended: Tensor | None = None) -> Tensor:
        """How much each query attends to each key, (B, heads, N, M), of sum 1 over M; for explanations."""
        q, k = self._queries_and_keys(query, key)
        # Once more by hand: the fused attention of forward never holds this matrix.
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if attended is not None:
            logits = logits.masked_fill(~attended, -math.inf)
        return logits.softmax(-1)

    def multiply_adds(self, inputs: tuple[Tensor, ...]) -> int:
        """Of the projections in and of both products, for one image; ``out_proj`` is a layer of its own."""
        (_, n, width), (_, m, _) = inputs[0].shape, inputs[1].shape
        return (n + 2 * m) * width * width + 2 * n * m * width

    def _queries_and_keys(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return self._heads_of(query, 0), self._heads_of(key, 1)

    def _heads_of(self, x: Tensor, which: int) -> Tensor:
        """Projected queries (0), keys (1) or values (2), (B, heads, length, C / heads)."""
        width = x.shape[-1]
        # Rows of the one matrix: queries, then keys, then values.
        rows = slice(which * width, (which + 1) * width)
        projected = F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        heads: Tensor = projected.reshape(*x.shape[:2], self.heads, width // self.heads)
        return heads.transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a rectifier between them, at every position by itself."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(config.width, config.feed_forward)
        self.linear2 = nn.Linear(config.feed_forward, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        out: Tensor = self.linear2(self.dropout(F.relu(self.linear1(x))))
        return out


class EncoderLayer(nn.Module):
    """Self-attention of feature cells and a perceptron, each with a shortcut and layer norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attention = Attention(config.width, config.heads, config.dropout)
        self.feed_forward = FeedForward(config)
        self.norm1, self.norm2 = (nn.LayerNorm(config.width) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, positions: Tensor, attended: Tensor | None) -> Tensor:
        """(B, N, C), with positions of the same shape, → (B, N, C)."""
        if self.pre_norm:
            y = self.norm1(x)
            x = x + self.dropout(self.self_attention(y + positions, y + positions, y, attended))
            added: Tensor = self.dropout(self.feed_forward(self.norm2(x)))
            return x + added
        y = x + positions
        x = self.norm1(x + self.dropout(self.self_attention(y, y, x, attended)))
        out: Tensor = self.norm2(x + self.dropout(self.feed_forward(x)))
        return out


class DecoderLayer(nn.Module):
    """Self-attention of queries, attention to feature cells, and a perceptron."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attention = Attention(config.width, config.heads, config.dropout)
        self.cross_attention = Attention(config.width, config.heads, config.dropout)
        self.feed_forward = FeedForward(config)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(config.width) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, queries: Tensor, keys: Tensor, memory: Tensor, attended: Tensor | None) -> Tensor:
        """
        Args:
            x: (B, Q, C), what is known of each object.
            queries: (B, Q, C), added to ``x`` as a position.
            keys: (B, N, C), memory with its positions.
            memory: (B, N, C), of the encoder.
            attended: (B, 1, 1, N) bool, false for padding.
        """
        if self.pre_norm:
            y = self.norm1(x)
            x = x + self.dropout(self.self_attention(y + queries, y + queries, y))
            x = x + self.dropout(self.cross_attention(self.norm2(x) + queries, keys, memory, attended))
            added: Tensor = self.dropout(self.feed_forward(self.norm3(x)))
            return x + added
        y = x + queries
        x = self.norm1(x + self.dropout(self.self_attention(y, y, x)))
        x = self.norm2(x + self.dropout(self.cross_attention(x + queries, keys, memory, attended)))
        out: Tensor = self.norm3(x + self.dropout(self.feed_forward(x)))
        return out


class Encoder(nn.Module):
    """All layers, and a last norm where ``final_norm``."""

    def __init__(self, config: TransformerConfig, final_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.width) if final_norm else None
        init_matrices(self)

    def forward(self, x: Tensor, positions: Tensor, attended: Tensor | None) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        for layer in self.layers:
            x = layer(x, positions, attended)
        return x if self.norm is None else self.norm(x)


class Decoder(nn.Module):
    """All layers; the norm at the end is applied to what every layer gives."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.width)
        init_matrices(self)

    def forward(self, x: Tensor, queries: Tensor, keys: Tensor, memory: Tensor, attended: Tensor | None) -> Tensor:
        """(layers, B, Q, C); arguments as of :class:`DecoderLayer`."""
        every: list[Tensor] = []
        for layer in self.layers:
            x = layer(x, queries, keys, memory, attended)
            every.append(self.norm(x))  # what goes on to the next layer is not normalised
        return torch.stack(every)


def init_matrices(module: nn.Module) -> None:
    """Xavier's uniform initialisation of all matrices; the three of an attention count as one."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
