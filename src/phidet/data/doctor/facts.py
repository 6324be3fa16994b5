"""The doctor's findings, as plain structs that are written as JSON unchanged."""

from __future__ import annotations

from typing import Literal

import msgspec

from phidet.data.data_folder import Layout

Severity = Literal["error", "warning", "note"]
SameAs = Literal["same file", "same bytes", "same pixels", "near"]

SMALL, MEDIUM = 32.0**2, 96.0**2  # px², COCO's borders between small, medium and large
COCO_DETECTIONS = 100  # per image: the limit of COCO's evaluation


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Distribution of values; all zero where there are none. ``low`` and ``high`` are the 5th and 95th percentile."""

    smallest: float = 0.0
    low: float = 0.0
    median: float = 0.0
    mean: float = 0.0
    high: float = 0.0
    largest: float = 0.0


class Bins(msgspec.Struct, frozen=True):
    """Numbers of boxes by their area: below 32², below 96², and the rest."""

    small: int
    medium: int
    large: int

    @property
    def total(self) -> int:
        """Boxes of all sizes."""
        return self.small + self.medium + self.large


class ImageSize(msgspec.Struct, frozen=True):
    """A size in pixels and how many images have it."""

    width: int
    height: int
    images: int


class SplitFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One split, as its reader gives it: what a reader left out is not counted.

    Attributes:
        made_of: other splits whose images this one consists of (VOC's trainval); such a split is not compared.
        made: images that :mod:`phidet.inference.synthesize` made.
        objects: all of them, with crowds and difficult ones.
        classes: objects by class name, in the order of the class ids.
        image_sizes: most frequent first.
        crowded_images: with more than 100 objects.
        boxes: by area in the image, crowds left out.
        boxes_at_input: by area in the network's input.
        aspects: width over height of the boxes.
        extent: how far boxes reach from the upper left corner at most, as a share of the image's width or height; 0
            where there is none.
    """

    name: str
    made_of: list[str]
    images: int
    objects: int
    classes: dict[str, int]
    images_without_objects: int
    crowd: int
    difficult: int
    image_sizes: list[ImageSize]
    objects_per_image: Spread
    crowded_images: int
    boxes: Bins
    boxes_at_input: Bins
    aspects: Spread
    extent: float = 0.0
    made: int = 0


class Finding(msgspec.Struct, frozen=True):
    """Something wrong, as :class:`phidet.data.dataset.Problem` has it, and in which splits."""

    splits: list[str]
    where: str
    what: str
    image: str | None = None
    box_xyxy: tuple[float, ...] | None = None


class Findings(msgspec.Struct, frozen=True):
    """All findings of one kind."""

    kind: str
    items: list[Finding]


class Member(msgspec.Struct, frozen=True, order=True):
    """An image of a split, by name."""

    split: str
    image: str


class DuplicateImages(msgspec.Struct, frozen=True):
    """Copies of one image.

    Attributes:
        kind: by what they are the same; "near" when re-encoded, resized or hardly different.
        members: the images; the first is kept where copies of an image within one split are removed.
        splits: that they are in; more than one means that what is trained on is also measured on.
        same_labels: whether all have equal boxes and classes.
    """

    kind: SameAs
    members: list[Member]
    splits: list[str]
    same_labels: bool


class DuplicateBoxes(msgspec.Struct, frozen=True):
    """Two boxes of one class in one image with IoU > 0.95; ``second`` is the one to drop."""

    split: str
    image: str
    class_name: str
    first: int
    second: int
    iou: float


class ClassFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Irregularities of the classes.

    Attributes:
        names: of all splits, in the order of the first split that has them.
        unused: without an object in any split.
        rare: fewer than 20 objects in the split to train on, with their number.
        untrained: with objects elsewhere, none in the split to train on.
        unmeasured: with objects in the split to train on, none in the one to validate on.
        twins: names that differ in case, spaces, punctuation or a plural s.
        lists_differ: splits whose list of classes is not the training split's.
    """

    names: list[str]
    unused: list[str]
    rare: dict[str, int]
    untrained: list[str]
    unmeasured: list[str]
    twins: list[list[str]]
    lists_differ: list[str]


class Recall(msgspec.Struct, frozen=True, kw_only=True):
    """Share of boxes whose best anchor has IoU ≥ 0.5, by area in the input; ``None`` where there is no box."""

    all: float | None
    small: float | None
    medium: float | None
    large: float | None


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Anchors or an input size that were tried instead."""

    what: Literal["scale", "size", "aspects"]
    anchor_scale: float
    image_size_hw: tuple[int, int]
    aspects: list[float]
    recall: Recall
    mean_best_iou: float


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How well the model's anchors match the boxes, all splits together.

    Attributes:
        boxes: how many were examined; of very many, a sample.
        recall: see :class:`Recall`.
        mean_best_iou: of all boxes.
        smaller_than: boxes whose √area in the input is below 4, 8 and 16 pixels.
        tried: other scales, sizes and aspects.
        better: those of ``tried`` that are worth considering, the cheapest first.
    """

    boxes: int
    recall: Recall
    mean_best_iou: float
    smaller_than: dict[str, int]
    tried: list[Trial]
    better: list[Trial]


class Advice(msgspec.Struct, frozen=True):
    """One sentence or two: the problem, and what to do."""

    severity: Severity
    text: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole result of an examination.

    Attributes:
        path, layout: of the data.
        model, image_size_hw, anchor_scale: what the boxes are compared with.
        decoded: whether every image was decoded, or only headers read (``--fast``).
        findings: by kind, what the reader left out or set right, splits it cannot read, and faulty images.
        unused_files: images that no split lists, labels without an image.
    """

    path: str
    layout: Layout
    model: str
    image_size_hw: tuple[int, int]
    anchor_scale: float | None
    decoded: bool
    splits: list[SplitFacts]
    classes: ClassFacts
    findings: list[Findings]
    duplicate_images: list[DuplicateImages]
    duplicate_boxes: list[DuplicateBoxes]
    unused_files: list[str]
    coverage: Coverage | None
    advice: list[Advice]

    @property
    def errors(self) -> int:
        """How many pieces of advice are errors."""
        return sum(advice.severity == "error" for advice in self.advice)
