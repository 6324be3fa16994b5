"""What a dialect is: where each of our tensors lives in a foreign file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

Layout = Literal["same", "hwio", "hwc1", "scalars"]
"""How a foreign tensor is stored: as ours; HWIO kernels; HWC1 depthwise kernels; one scalar per key."""

Config = Any
"""The config of whichever architecture a dialect belongs to; see :class:`phidet.architectures.base.NetworkConfig`."""


class Slot(NamedTuple):
    """The keys that hold one of our tensors, how they hold it, and what to assume where they are allowed to lack.

    ``default`` fills a tensor whose key may be absent; ``None`` means that the file must have it.
    """

    keys: tuple[str, ...]
    layout: Layout = "same"
    default: float | None = None


class Dialect(NamedTuple):
    """One way in which the world names these weights.

    Attributes:
        name: as users write it.
        recognise: whether a file with these (canonical) keys is of this dialect.
        slot: from one of our tensor names to its place in the file, ``None`` where the dialect has none (a head in a
            file of backbones). ``num_batches_tracked`` is never asked for.
        canonical: a file's key as the dialect spells it, ``None`` for entries that are no weights.
        anchors_2020: whether its detectors were trained with the anchor aspects of mid 2020 (1.4, 0.7).
        writable: whether phidet writes files of it.
        fillers: keys that the dialect's own code wants in a file although nothing reads them, with their length.
    """

    name: str
    recognise: Callable[[Iterable[str]], bool]
    slot: Callable[[str, Config], Slot | None]
    canonical: Callable[[str], str | None]
    anchors_2020: bool = False
    writable: bool = True
    fillers: Callable[[Config], dict[str, int]] = lambda config: {}


def drop_wrappers(key: str) -> str | None:
    """A key of a PyTorch file without the prefixes that wrappers leave, ``None`` for counters and anchors."""
    for prefix in ("module.", "model."):
        key = key.removeprefix(prefix)
    return None if key.endswith("num_batches_tracked") or key == "anchors.boxes" else key


def parse(name: str) -> tuple[str, list[str]]:
    """One of our names as (part, path): ``"backbone.blocks.3.bn.bias"`` → ``("backbone", ["blocks", "3", …])``."""
    part, *path = name.split(".")
    return part, path
