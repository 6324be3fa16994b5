"""What ``phidet info`` says, as plain data."""

from __future__ import annotations

import msgspec

from phidet.architectures.costs import Cost, count_costs, total
from phidet.architectures.efficientdet.anchors import level_sizes
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.published import DETECTOR_NAMES, detector_config
from phidet.architectures.efficientdet.published_metrics import (
    DETECTORS,
    NECKS,
    PublishedDetector,
)
from phidet.architectures.efficientdet.receptive import receptive_fields
from phidet.architectures.feature_networks.graphs import GRAPHS
from phidet.core.errors import ConfigError
from phidet.core.structs import replace
from phidet.images.prepare import Preprocess


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One level: grid (rows, columns), number of anchors, their smallest and largest side and the fields in pixels."""

    level: int
    stride: int
    grid_hw: tuple[int, int]
    anchors: int
    anchor_sides: tuple[float, float]
    backbone_field: int | None
    field: int


class DetectorReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``phidet info`` prints of a detector."""

    name: str
    input_hw: tuple[int, int]
    num_classes: int
    preprocess: Preprocess
    levels: list[Level]
    parts: dict[str, Cost]
    total: Cost
    published: PublishedDetector | None


class NeckReport(msgspec.Struct, frozen=True, kw_only=True):
    """One feature network in an otherwise unchanged model, and relative to repeated top-down FPN.

    ``relative_*`` compare the feature network alone, ``model_relative_*`` the whole model; ``paper_*`` is what the
    paper prints, where it has the row.
    """

    graph: str
    fusion: str
    neck: Cost
    model: Cost
    relative_parameters: float
    relative_multiply_adds: float
    model_relative_parameters: float
    model_relative_multiply_adds: float
    paper_ap: float | None
    paper_parameters: float | None
    paper_multiply_adds: float | None


def describe_detector(config: ModelConfig, input_hw: tuple[int, int] | None = None) -> DetectorReport:
    """Levels, anchors, fields and costs of a detector at ``input_hw``, its own size by default."""
    size = input_hw or config.image_size_hw
    parts = count_costs(config, size)
    # The paper's counts are of its own input size, and of COCO's 90 slots.
    comparable = size == config.image_size_hw and config.num_classes == 90 and _is_published(config)
    return DetectorReport(
        name=config.name,
        input_hw=size,
        num_classes=config.num_classes,
        preprocess=config.preprocess,
        levels=_levels(config, size),
        parts=parts,
        total=total(parts),
        published=DETECTORS.get(config.name) if comparable else None,
    )


def _is_published(config: ModelConfig) -> bool:
    """Whether the config is the published network of its name, and not another one that kept the name."""
    if config.name not in DETECTOR_NAMES:
        return False
    published = detector_config(config.name)
    return (config.feature_network, config.head_layers, config.backbone.width, config.backbone.depth) == (
        published.feature_network,
        published.head_layers,
        published.backbone.width,
        published.backbone.depth,
    )


def compare_necks(config: ModelConfig) -> list[NeckReport]:
    """Every feature network in ``config``'s place of its own, as the paper compares them (section 6.2).

    Graphs that cannot stand on the model's levels are left out. All nodes use separable convolutions, and all
    networks are repeated equally often.
    """
    base: tuple[Cost, Cost] | None = None
    reports: list[NeckReport] = []
    for graph in GRAPHS:
        for fusion in ("sum", "fast") if graph == "bifpn" else ("sum",):
            try:
                network = msgspec.structs.replace(config.feature_network, graph=graph, fusion=fusion)
            except ConfigError:
                continue
            parts = count_costs(replace(config, {"feature_network": network}))
            neck, whole = parts["feature_network"], total(parts)
            base = base or (neck, whole)  # fpn is the first
            reports.append(_neck_report(graph, fusion, (neck, whole), base))
    return reports


def _neck_report(graph: str, fusion: str, costs: tuple[Cost, Cost], base: tuple[Cost, Cost]) -> NeckReport:
    (neck, whole), (base_neck, base_whole) = costs, base
    paper = NECKS.get(graph) or NECKS.get(f"{graph}/{fusion}") or (None, None, None)
    return NeckReport(
        graph=graph,
        fusion=fusion,
        neck=neck,
        model=whole,
        relative_parameters=neck.parameters / base_neck.parameters,
        relative_multiply_adds=neck.multiply_adds / base_neck.multiply_adds,
        model_relative_parameters=whole.parameters / base_whole.parameters,
        model_relative_multiply_adds=whole.multiply_adds / base_whole.multiply_adds,
        paper_ap=paper[0],
        paper_parameters=paper[1],
        paper_multiply_adds=paper[2],
    )


def _levels(config: ModelConfig, size_hw: tuple[int, int]) -> list[Level]:
    fields = receptive_fields(config)
    network, anchors = config.feature_network, config.anchors
    sides = [side for aspect in anchors.aspects_wh for side in aspect]
    levels: list[Level] = []
    for level, grid in zip(network.levels, level_sizes(size_hw, network.levels), strict=True):
        base = anchors.scale * 2**level
        largest = base * 2 ** ((anchors.octaves - 1) / anchors.octaves)
        levels.append(
            Level(
                level=level,
                stride=2**level,
                grid_hw=grid,
                anchors=grid[0] * grid[1] * anchors.per_cell,
                anchor_sides=(base * min(sides), largest * max(sides)),
                backbone_field=fields[level][0],
                field=fields[level][1],
            )
        )
    return levels
