"""Nominal parts: what should be where, on which side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from phidet.core.errors import ConfigError, InputError
from phidet.detections.alignment.pose import Floats
from phidet.detections.detections import Detections

Side = Literal["top", "bottom"]
SIDES: tuple[Side, ...] = ("top", "bottom")


@dataclass(frozen=True, eq=False)
class Nominal:
    """A list of parts.

    Attributes:
        references: N names, unique: "R12".
        labels: N classes, by the names that detections have.
        places: (N, 2) float64, centres in ``unit``.
        rotations: (N,) float64, degrees counter-clockwise as seen from above; NaN where unknown.
        sides: N of "top" and "bottom".
        unit: "mm", "mil", "inch" or "px".
        y_up: whether y grows upwards, as on drawings, or downwards, as in images.
        source: where it was read, for messages.
        sizes: (N, 2) float64 length and width of each part at rotation 0 in ``unit``, NaN where unknown.

    Raises:
        InputError: arrays of different lengths, places that are not finite, a reference that comes twice.
    """

    references: tuple[str, ...]
    labels: tuple[str, ...]
    places: Floats
    rotations: Floats
    sides: tuple[Side, ...]
    unit: str
    y_up: bool
    source: str = "the nominal list"
    sizes: Floats | None = None

    def __post_init__(self) -> None:
        count = len(self.references)
        lengths = {len(self.labels), len(self.sides), len(self.places), len(self.rotations)}
        if lengths != {count} or self.places.shape != (count, 2):
            raise InputError(f"{self.source}: expected {count} labels, places (N, 2), rotations and sides")
        if not np.isfinite(self.places).all():
            raise InputError(f"{self.source}: places must be finite numbers")
        if len(set(self.references)) < count:
            twice = next(name for i, name in enumerate(self.references) if name in self.references[:i])
            raise InputError(f"{self.source}: the reference {twice!r} comes twice")

    def __len__(self) -> int:
        return len(self.references)

    @property
    def downward(self) -> Floats:
        """(N, 2) places with y downwards, as images have it."""
        return self.places * (np.array([1.0, -1.0]) if self.y_up else 1.0)

    def take(self, index: npt.NDArray[np.int64]) -> Nominal:
        """Some of the parts."""
        chosen = index.tolist()
        return replace(
            self,
            references=tuple(self.references[i] for i in chosen),
            labels=tuple(self.labels[i] for i in chosen),
            places=self.places[index],
            rotations=self.rotations[index],
            sides=tuple(self.sides[i] for i in chosen),
            sizes=None if self.sizes is None else self.sizes[index],
        )

    def on(self, side: Side) -> Nominal:
        """The parts of one side."""
        return self.take(np.array([i for i, one in enumerate(self.sides) if one == side], np.int64))

    def with_classes(self, names: Sequence[str], mapping: dict[str, str] | None = None) -> Nominal:
        """The parts whose labels, after ``mapping``, are class names, compared without case.

        Args:
            names: the classes that detections can have.
            mapping: label, or the letters at the beginning of a reference ("R"), to class name.

        Raises:
            ConfigError: ``mapping`` names an unknown class, or no label is a class name.
        """
        known = {name.casefold(): name for name in names}
        for key, value in (mapping or {}).items():
            if value.casefold() not in known:
                raise ConfigError(f"{key}={value}: the model has no class {value!r}; it has {', '.join(names)}")
        folded = {key.casefold(): value for key, value in (mapping or {}).items()}
        labels = [
            known.get(
                folded.get(label.casefold(), folded.get(reference.rstrip("0123456789").casefold(), label)).casefold()
            )
            for reference, label in zip(self.references, self.labels, strict=True)
        ]
        kept = np.array([i for i, label in enumerate(labels) if label is not None], np.int64)
        if not len(kept):
            shown = ", ".join(dict.fromkeys(self.labels[:50]))[:200]
            raise ConfigError(
                f"{self.source}: no label is a class of the model. Labels: {shown}. Classes: {', '.join(names)}. "
                "Say what they mean, by label or by the letters of the references: --classes R=resistor,100n=capacitor"
            )
        return replace(self, labels=tuple(label or "" for label in labels)).take(kept)


def nominal_of(found: Detections, source: str) -> Nominal:
    """The detections on an image of a right assembly as nominal parts, in its pixels: "resistor-1", row by row."""
    boxes = found.boxes_xyxy.astype(np.float64)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    # Row by row, so that numbers do not depend on scores: rows as high as a part.
    height = float(np.median(boxes[:, 3] - boxes[:, 1])) if len(boxes) else 1.0
    order = np.lexsort((centres[:, 0], np.floor(centres[:, 1] / max(height, 1e-9))))
    counts: dict[str, int] = {}
    references = []
    for i in order.tolist():
        label = found.labels[i]
        counts[label] = counts.get(label, 0) + 1
        references.append(f"{label}-{counts[label]}")
    labels = found.labels
    return Nominal(
        tuple(references),
        tuple(labels[i] for i in order.tolist()),
        centres[order],
        np.zeros(len(order)),
        (SIDES[0],) * len(order),
        "px",
        y_up=False,
        source=source,
        sizes=(boxes[:, 2:] - boxes[:, :2])[order],
    )
