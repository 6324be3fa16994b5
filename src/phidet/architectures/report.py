"""The content of ``phidet info`` for any network, as plain data."""

from __future__ import annotations

from typing import Any

import msgspec

from phidet.architectures.base import NetworkConfig
from phidet.architectures.costs import Cost, count_costs, total
from phidet.architectures.registry import architecture_of
from phidet.images.prepare import Preprocess


class NetworkReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``phidet info`` prints of a network; ``published`` has its paper's metrics, if any."""

    name: str
    input_hw: tuple[int, int]
    num_classes: int
    preprocess: Preprocess
    parts: dict[str, Cost]
    total: Cost
    published: Any


def describe_network(config: NetworkConfig, input_hw: tuple[int, int] | None = None) -> NetworkReport:
    """Costs of a network at ``input_hw``, its own size by default."""
    size = input_hw or config.image_size_hw
    parts = count_costs(config, size)
    return NetworkReport(
        name=config.name,
        input_hw=size,
        num_classes=config.num_classes,
        preprocess=config.preprocess,
        parts=parts,
        total=total(parts),
        published=architecture_of(config).published_metrics(config) if size == config.image_size_hw else None,
    )
