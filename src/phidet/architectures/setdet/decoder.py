"""From maps to objects: queries chosen among the cells, then refined layer by layer."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from phidet.architectures.setdet.attention import FeedForward, SampledAttention, SelfAttention
from phidet.architectures.setdet.boxes import BoxHead, cell_boxes, moved, to_logits
from phidet.architectures.setdet.config import DecoderConfig
from phidet.architectures.setdet.denoising import DenoisingQueries, Noise, isolation, noisy_queries
from phidet.architectures.sets.targets import SetTargets

CLASS_PRIOR = 0.01  # probability that every class starts with (RetinaNet, 1708.02002, section 4.1)


class Predictions(NamedTuple):
    """Answers of Q queries.

    Attributes:
        class_logits: (…, B, Q, C), before the sigmoid.
        boxes_cxcywh: (…, B, Q, 4), 0…1 of the input.
    """

    class_logits: Tensor
    boxes_cxcywh: Tensor


class Refinement(NamedTuple):
    """Everything that training learns from.

    Attributes:
        chosen: the cells that became queries, as they were.
        layers: of every decoder layer, (L, B, Q, …).
        noisy: of every decoder layer, what became of the denoising queries; ``None`` if there were none.
        denoising: those queries.
    """

    chosen: Predictions
    layers: Predictions
    noisy: Predictions | None
    denoising: DenoisingQueries | None


def class_predictor(width: int, num_classes: int) -> nn.Linear:
    """A logit for each class; at first all improbable, so that the many queries without object do not dominate."""
    layer = nn.Linear(width, num_classes)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.constant_(layer.bias, -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))
    return layer


class DecoderLayer(nn.Module):
    """Queries look at each other, at the maps around their boxes, and think; normalised after each."""

    def __init__(self, config: DecoderConfig, levels: int) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads)
        self.attention_norm = nn.LayerNorm(config.width)
        self.sampling = SampledAttention(config.width, config.heads, levels, config.points)
        self.sampling_norm = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width)
        self.feed_forward_norm = nn.LayerNorm(config.width)

    def forward(
        self, x: Tensor, positions: Tensor, boxes: Tensor, maps: list[Tensor], allowed: Tensor | None
    ) -> Tensor:
        """Queries (B, Q, width), their positions, boxes (B, Q, 4), maps, who may read whom → (B, Q, width)."""
        x = self.attention_norm(x + self.attention(x, positions, allowed))
        x = self.sampling_norm(x + self.sampling(x + positions, boxes, maps))
        out: Tensor = self.feed_forward_norm(x + self.feed_forward(x))
        return out


class SetDecoder(nn.Module):
    """Queries from cells (arXiv 2203.03605, 2304.08069), then layers that refine their boxes (arXiv 2010.04159, A.4).

    Args:
        config: sizes.
        levels: number of maps.
        num_classes: real classes.
    """

    def __init__(self, config: DecoderConfig, levels: int, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        width = config.width
        self.cell = nn.Linear(width, width)
        self.cell_norm = nn.LayerNorm(width)
        self.cell_class = class_predictor(width, num_classes)
        self.cell_box = BoxHead(width)
        self.position = nn.Sequential(nn.Linear(4, 2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, width))
        self.noisy_class = nn.Embedding(num_classes + 1, width)
        self.layers = nn.ModuleList(DecoderLayer(config, levels) for _ in range(config.layers))
        self.classes = nn.ModuleList(class_predictor(width, num_classes) for _ in range(config.layers))
        self.boxes = nn.ModuleList(BoxHead(width) for _ in range(config.layers))
        nn.init.xavier_uniform_(self.cell.weight)
        nn.init.zeros_(self.cell.bias)

    def forward(self, maps: list[Tensor]) -> Predictions:
        """Maps (B, width, H_l, W_l), finest first → the last layer's answers."""
        cells = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)  # (B, N, width)
        return self.decide(maps, self.cell(cells))

    def decide(self, maps: list[Tensor], cells: Tensor) -> Predictions:
        """:meth:`forward` from what the first linear layer makes of the maps' cells, (B, N, width)."""
        x, logits, _ = self._choose(maps, cells)
        for layer, head in zip(self.layers, self.boxes, strict=True):
            boxes = logits.sigmoid()
            x = layer(x, self.position(boxes.to(x.dtype)), boxes, maps, None)
            logits = moved(logits, head(x))
        return Predictions(self.classes[-1](x), logits.sigmoid())

    def refine(self, maps: list[Tensor], targets: SetTargets, noise: Noise) -> Refinement:
        """All that :meth:`forward` passes through, and beside it what becomes of denoising queries."""
        cells = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        x, start, chosen = self._choose(maps, self.cell(cells))
        queries, allowed = x.shape[1], None
        denoising = noisy_queries(targets, self.num_classes, noise)
        reference = start.detach()
        if denoising is not None:
            x = torch.cat((self.noisy_class(denoising.class_ids).to(x.dtype), x), 1)
            reference = torch.cat((to_logits(denoising.boxes_cxcywh).to(reference.dtype), reference), 1)
            allowed = isolation(denoising, queries)
        else:  # a gradient of 0: processes that share one wait for those of all weights
            x = x + 0 * self.noisy_class.weight.sum()
        classes, boxes, before = [], [], reference
        for layer, classify, head in zip(self.layers, self.classes, self.boxes, strict=True):
            at = reference.sigmoid()
            x = layer(x, self.position(at.to(x.dtype)), at, maps, allowed)
            change = head(x)
            # The gradient of a layer's boxes reaches the layer before, but no further (arXiv 2203.03605, section 3.5).
            boxes.append(moved(before, change).sigmoid())
            before = moved(reference, change)
            reference = before.detach()
            classes.append(classify(x))
        layers = Predictions(torch.stack(classes), torch.stack(boxes))
        # Denoising queries stand in front of those that find objects.
        rest = layers.class_logits.shape[2] - queries
        noisy = Predictions(*(values[:, :, :rest] for values in layers)) if denoising is not None else None
        return Refinement(chosen, Predictions(*(values[:, :, rest:] for values in layers)), noisy, denoising)

    def _choose(self, maps: list[Tensor], cells: Tensor) -> tuple[Tensor, Tensor, Predictions]:
        """The best cells as queries (B, Q, width) without gradient, their box logits, and what the cells said."""
        # Every cell says what it might be; the best become queries. As queries they are detached: the maps learn from
        # what the cells say themselves, and from what the layers read in them, not through the choice.
        cells = self.cell_norm(cells)
        logits = self.cell_class(cells)  # (B, N, C)
        count = min(self.config.queries, cells.shape[1])
        best = logits.amax(2).topk(count, 1).indices  # (B, Q)
        start = to_logits(cell_boxes([(x.shape[2], x.shape[3]) for x in maps], cells))
        queries = cells.gather(1, best[..., None].expand(-1, -1, cells.shape[2]))
        box_logits = moved(start[best], self.cell_box(queries))
        said = logits.gather(1, best[..., None].expand(-1, -1, logits.shape[2]))
        return queries.detach(), box_logits, Predictions(said, box_logits.sigmoid())
