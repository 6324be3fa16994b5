"""Maps tensors between our names and a dialect's, in both directions, and accounts for every key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from phidet.architectures.dialect import AXES, Config, Dialect, Slot
from phidet.core.errors import CheckpointError


class Mapped(NamedTuple):
    """Foreign tensors under our names, and the keys that could not be mapped.

    Attributes:
        tensors: by our names.
        missing: foreign keys that the model needs but the file lacks.
        unexpected: keys of the file without a counterpart in the model.
    """

    tensors: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and BN statistics by name, without the counters that no computation reads."""
    return {name: t for name, t in module.state_dict().items() if not name.endswith("num_batches_tracked")}


def same_names(tensors: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> Mapped:
    """The tensors of one of our own files, which have the names of ``model``."""
    ours = {name: tensor for name, tensor in tensors.items() if name in model}
    missing = [name for name in model if name not in ours]
    return Mapped(ours, missing, [name for name in tensors if name not in model])


def to_ours(foreign: Mapping[str, Tensor], dialect: Dialect, config: Config, model: Mapping[str, Tensor]) -> Mapped:
    """Foreign tensors, by canonical key, under the names of ``model`` (our names → tensors of the right shape)."""
    ours: dict[str, Tensor] = {}
    missing: list[str] = []
    # Fillers are keys that a dialect always writes and no computation reads.
    used: set[str] = set(dialect.fillers(config))
    for name, like in model.items():
        slot = dialect.slot(name, config)
        if slot is None:
            continue
        absent = [key for key in slot.keys if key not in foreign]
        # A dialect may leave out what is always the same, such as a bias before a batch norm.
        if absent and slot.default is not None:
            ours[name] = torch.full(like.shape, slot.default)
        elif absent:
            missing += absent
        else:
            used.update(slot.keys)
            ours[name] = _gather(foreign, slot)
    return Mapped(ours, missing, sorted(set(foreign) - used))


def to_theirs(model: Mapping[str, Tensor], dialect: Dialect, config: Config) -> dict[str, Tensor]:
    """Our tensors under the dialect's canonical keys; the inverse of :func:`to_ours`.

    Raises:
        CheckpointError: the dialect has no key for one of the tensors.
    """
    theirs: dict[str, Tensor] = {}
    for name, tensor in model.items():
        slot = dialect.slot(name, config)
        if slot is None:
            raise CheckpointError(f"{dialect.name} format has no key for {name!r} of {config.name}")
        for key, part in zip(slot.keys, _split(tensor, slot), strict=True):
            ours = part.detach()
            theirs[key] = (ours.permute(AXES[slot.layout][1]) if slot.layout in AXES else ours).contiguous()
    for key, length in dialect.fillers(config).items():
        theirs[key] = torch.ones(length)
    return theirs


def check_shapes(tensors: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> list[str]:
    """One line for every tensor whose shape differs from the model's."""
    return [
        f"{name}: expected {tuple(model[name].shape)}, got {tuple(tensor.shape)}"
        for name, tensor in tensors.items()
        if tensor.shape != model[name].shape
    ]


def mismatch_error(path: object, model: str, problems: Mapping[str, Iterable[str]]) -> CheckpointError:
    """The error for a file that does not match: each kind of problem with its count and first examples."""
    lines = [f"{path} does not fit {model}:"]
    for kind, items in problems.items():
        items = list(items)
        if items:
            more = f" and {len(items) - 4} more" if len(items) > 4 else ""
            lines.append(f"  {len(items)} {kind}: {'; '.join(items[:4])}{more}")
    return CheckpointError("\n".join(lines))


def _split(tensor: Tensor, slot: Slot) -> tuple[Tensor, ...]:
    """The tensors of the slot's keys, in our layout."""
    if slot.layout == "scalars":  # Keras stores fusion weights as single numbers, one variable for each
        return tensor.unbind()
    return tensor.chunk(len(slot.keys)) if slot.layout == "parts" else (tensor,)


def _gather(foreign: Mapping[str, Tensor], slot: Slot) -> Tensor:
    if slot.layout == "scalars":
        scalars = [foreign[key] for key in slot.keys]
        # A tensor of another shape is passed on as it is, so that the shape check names it.
        wrong = [scalar for scalar in scalars if scalar.numel() != 1]
        return wrong[0][None] if wrong else torch.stack([scalar.reshape(()) for scalar in scalars])
    if slot.layout == "parts":
        parts = [foreign[key] for key in slot.keys]
        odd = next((part for part in parts if part.shape != parts[0].shape or not part.ndim), None)
        return torch.cat(parts) if odd is None else odd  # the shape check reports it by name
    tensor = foreign[slot.keys[0]]
    if slot.layout not in AXES or tensor.ndim != len(AXES[slot.layout][0]):
        return tensor  # permute would raise for another number of axes; the shape check reports it by name
    return tensor.permute(AXES[slot.layout][0])
