"""Dialects: where each of our tensors is stored in the files of another project."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

Layout = Literal["same", "io", "hwio", "hwc1", "scalars", "parts"]
"""How a foreign tensor is stored: as ours; IO matrices; HWIO kernels; HWC1 depthwise kernels; one scalar per key; equal
parts of its first dimension, one per key."""
AXES: dict[Layout, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "io": ((1, 0), (1, 0)),
    "hwio": ((3, 2, 0, 1), (2, 3, 1, 0)),
    "hwc1": ((2, 3, 0, 1), (2, 3, 0, 1)),
}
"""Of Keras' layouts: our axes in theirs, as ``permute`` takes them on the way to ours, and the other way round."""

Config = Any
"""The config of whichever architecture a dialect belongs to; see :class:`phidet.architectures.base.NetworkConfig`."""


AVERAGE = "/ExponentialMovingAverage"
"""Suffix of the names of averaged weights in TensorFlow."""


class Slot(NamedTuple):
    """The keys that hold one of our tensors, their layout, and a default if they may be absent.

    ``default`` fills a tensor whose key may be absent; ``None`` means that the file must have it.
    """

    keys: tuple[str, ...]
    layout: Layout = "same"
    default: float | None = None


class Dialect(NamedTuple):
    """One project's naming scheme for these weights.

    Attributes:
        name: for users.
        recognise: whether a file with these (canonical) keys is of this dialect.
        slot: from one of our tensor names to its place in the file, ``None`` where the dialect has none (a head in a
            file of backbones). ``num_batches_tracked`` is never passed.
        canonical: a file's key as the dialect spells it, ``None`` for entries that are not weights.
        anchors_2020: whether its detectors were trained with the anchor aspects of mid 2020 (1.4, 0.7).
        writable: whether phidet writes files of it.
        fillers: keys that the dialect's own code requires in a file although nothing uses them, with their length.
    """

    name: str
    recognise: Callable[[Iterable[str]], bool]
    slot: Callable[[str, Config], Slot | None]
    canonical: Callable[[str], str | None]
    anchors_2020: bool = False
    writable: bool = True
    fillers: Callable[[Config], dict[str, int]] = lambda config: {}


WRAPPED_AVERAGES = frozenset({"ema", "ema_model", "model_ema", "averaged_model", "swa_model"})
"""First parts of keys under which trainers keep averaged weights beside the others."""
_WRAPPED = WRAPPED_AVERAGES | {"model", "net", "network", "online_model"}
# From DataParallel, torch.compile and FullyShardedDataParallel, which may wrap parts of a network as well.
_WRAPPED_ANYWHERE = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


class UnwrappedKey(NamedTuple):
    """A key of a PyTorch file: the prefixes that trainers and wrappers add, and the rest."""

    wrappers: tuple[str, ...]
    key: str


def unwrap(key: str) -> UnwrappedKey:
    """``"model._orig_mod.backbone.bn1.bias"`` → ``("model", "_orig_mod")`` and ``"backbone.bn1.bias"``."""
    parts = key.split(".")
    # The prefix ends at the first part that is none of a wrapper; the last part is the name of the tensor.
    first = next((i for i, part in enumerate(parts[:-1]) if part not in _WRAPPED | _WRAPPED_ANYWHERE), len(parts) - 1)
    bare = [part for part in parts[first:] if part not in _WRAPPED_ANYWHERE]
    return UnwrappedKey(tuple(parts[:first]), ".".join(bare))


def drop_wrappers(key: str) -> str | None:
    """A key of a PyTorch file without the prefixes of wrappers, ``None`` for counters and anchors."""
    bare = unwrap(key).key
    return None if bare.endswith("num_batches_tracked") or bare in ("anchors.boxes", "n_averaged") else bare


def having(*needed: str) -> Callable[[Iterable[str]], bool]:
    """Recognises files by keys that all of them have."""
    return lambda keys: set(needed) <= set(keys)


def parse(name: str) -> tuple[str, list[str]]:
    """One of our names as (part, path): ``"backbone.blocks.3.bn.bias"`` → ``("backbone", ["blocks", "3", …])``."""
    part, *path = name.split(".")
    return part, path
