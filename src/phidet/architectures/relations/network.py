"""The graph network: nodes and edges → messages along edges → answers about nodes, edges and the graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phidet.architectures.model import Model
from phidet.architectures.relations.config import RelationsConfig
from phidet.architectures.relations.features import EDGE_FEATURES, node_width
from phidet.architectures.relations.layers import build_layers, scatter

_MARGIN = 4.0  # of the detector's own label before training
_CALM = 4.0  # logit against a fault at any one place before training: of 32 places, all are right with P = 0.56


class Relations(Model):
    """Messages between detections, and a head for each answer.

    What the heads say is added to what the detector said, and the last layers start at zero: an untrained network
    returns the detections as they are.

    Args:
        config: what to build; kept as ``config`` and saved with the weights.
    """

    def __init__(self, config: RelationsConfig) -> None:
        super().__init__()
        self.config: RelationsConfig = config
        width = config.width
        self.embed = _mlp(node_width(config), width, width)
        self.embed_edge = _mlp(EDGE_FEATURES, width, width)
        self.first = Messages(width)
        self.layers = build_layers(config, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in self.layers])
        self.margin = nn.Parameter(torch.tensor(_MARGIN))
        counts = {"label": config.num_classes, "score": 1, "place": 4, "right": 1}
        seen = 2 * width + node_width(config)
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(seen, width), *_last(width, counts[name]))
                for name in config.answers
                if name in counts
            }
        )
        if "together" in config.answers:
            self.pairs = Pairs(2 * width, width, width)
            self.together = nn.Sequential(*_last(width, 1))

    def forward(
        self, nodes: Tensor, edges: Tensor, edge_features: Tensor, graph: Tensor | None = None, graphs: int = 1
    ) -> dict[str, Tensor]:
        """The answers for one graph, or for several as one with parts that are not joined.

        Args:
            nodes: (N, F), as :class:`~phidet.architectures.relations.features.GraphInputs` has them.
            edges: (2, E) int64.
            edge_features: (E, 10).
            graph: (N,) int64, the graph that each node belongs to; all to one unless given.
            graphs: number of graphs, G.

        Returns:
            those of the config's answers, as ``label_logits`` (N, C), ``score_logits`` (N,), ``box_deltas`` (N, 4) as
            :func:`phidet.detections.boxes.encode` has them in sides of the detected box, ``together_logits`` (E,),
            and ``right_logits`` (G,).
        """
        x = self.embed(nodes)
        e = self.embed_edge(edge_features)
        # The first messages carry where each neighbour lies, which most of the layers after it do not see.
        x = x + self.first(x, edges, e)
        embedded = x
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + torch.relu(norm(layer(x, edges, e)))
        x = torch.cat((x, embedded), dim=1)
        # What a detection is said to be, unchanged: answers are corrections of it.
        seen = torch.cat((x, nodes), dim=1)
        said = {name: head(seen) for name, head in self.heads.items()}
        if "together" in self.config.answers:
            said["together"] = self.together(self.pairs(x, edges, e))
        return self._answers(nodes, said, (graph, graphs))

    def _answers(self, nodes: Tensor, said: dict[str, Tensor], parts: tuple[Tensor | None, int]) -> dict[str, Tensor]:
        """What the heads say, added to what the detector says."""
        classes = self.config.num_classes
        answers: dict[str, Tensor] = {}
        if "label" in said:
            answers["label_logits"] = self.margin * nodes[:, :classes] + said["label"]
        if "score" in said:
            answers["score_logits"] = nodes[:, classes] + said["score"][:, 0]
        if "place" in said:
            answers["box_deltas"] = said["place"]
        if "together" in said:
            answers["together_logits"] = said["together"][:, 0]
        if "right" in said:
            answers["right_logits"] = _all_right(said["right"][:, 0], *parts)
        return answers


class Pairs(nn.Module):
    """A linear layer of both ends of each edge and of the edge; nodes are multiplied before they are gathered."""

    def __init__(self, node_width: int, edge_width: int, after: int) -> None:
        super().__init__()
        self.source = nn.Linear(node_width, after)
        self.target = nn.Linear(node_width, after, bias=False)
        self.edge = nn.Linear(edge_width, after, bias=False)

    def forward(self, x: Tensor, edges: Tensor, e: Tensor) -> Tensor:
        """(N, node_width), (2, E), (E, edge_width) → (E, after)."""
        out: Tensor = self.source(x)[edges[0]] + self.target(x)[edges[1]] + self.edge(e)
        return out


class Messages(nn.Module):
    """For each node the mean of a function of itself, its neighbour and the edge between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pairs = Pairs(width, width, width)
        self.rest = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor, edges: Tensor, e: Tensor) -> Tensor:
        """(N, width), (2, E), (E, width) → (N, width)."""
        mean: Tensor = scatter(self.rest(self.pairs(x, edges, e)), edges[1], 0, x.shape[0], "mean")
        return mean


def _all_right(wrong: Tensor, graph: Tensor | None, graphs: int) -> Tensor:
    """(G,) logits that nothing is wrong anywhere, from (N,) logits that something is wrong around each node.

    With p_i the probability around node i, that of the whole is Π (1 − p_i): a graph is wrong as soon as one place is.
    So a verdict on the whole teaches every place ("noisy or", as multiple-instance learning has it: Maron and
    Lozano-Pérez, 1998), where a mean over the nodes would dilute the one that matters.
    """
    graph = torch.zeros_like(wrong, dtype=torch.int64) if graph is None else graph
    doubt: Tensor = scatter(F.softplus(wrong - _CALM), graph, 0, graphs, "sum")  # −ln Π (1 − p_i)
    # In fp32, a graph without nodes and one of which nothing is right would have infinite logits.
    doubt = doubt.clamp(1e-6, 50.0)
    # ln P / (1 − P) with P = e^−doubt is −ln (e^doubt − 1). Written with sinh, it is exact for small doubts in exported
    # graphs as well, which have no expm1.
    logits: Tensor = -(doubt / 2 + torch.log(2 * torch.sinh(doubt / 2)))
    return logits


def _mlp(before: int, hidden: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(before, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, after), nn.ReLU()
    )


def _last(width: int, count: int) -> tuple[nn.Module, nn.Module]:
    """The end of a head, which says nothing before it is trained."""
    last = nn.Linear(width, count)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    # SiLU: behind a zero layer a ReLU's units die before they have learned anything.
    return nn.SiLU(), last
