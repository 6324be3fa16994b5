"""Made images: real ones into which further objects are put, from a generator or from other images of the data."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.core.errors import InputError
from phidet.core.extras import __version__
from phidet.core.files import write_atomic
from phidet.data.blend import blend, border_difference
from phidet.data.crops import Crop, crops_of, cut_out, window_of
from phidet.data.dataset import Annotations, Dataset
from phidet.data.made import made_name
from phidet.data.writers.coco import write_coco
from phidet.detections.boxes import pairwise_iou
from phidet.detections.fields import NO_FIELDS
from phidet.inference.generator import ImageGenerator

log = logging.getLogger("phidet")
Pixels = npt.NDArray[np.uint8]
Piece = Callable[[int, int, np.random.Generator], Pixels]
"""Width and height in pixels, and chance → an object of that size with its surroundings, (height, width, 3)."""
_TRIES, _CANDIDATES = 200, 12
_JITTER = 0.1  # sizes vary by a tenth around those of real objects
_SIZE_LIMIT = 0.9  # of the image's side, for a piece


class Plan(NamedTuple):
    """What to make.

    Attributes:
        class_id: of the objects.
        objects: in all.
        per_image: objects, at most, in one image.
        context: how much longer the sides of a piece are than those of the object in its middle.
        seed: of sizes, places and objects.
    """

    class_id: int
    objects: int
    per_image: int = 3
    context: float = 1.25
    seed: int = 0


class MadeObject(NamedTuple):
    """One object that was put into an image: the made image, the real one, and the box in pixels."""

    image: str
    ground: str
    box_xyxy: tuple[float, ...]


class Synthesized(NamedTuple):
    """What was written.

    Attributes:
        images, objects: numbers of made ones.
        files: relative to the target.
    """

    images: int
    objects: int
    files: list[Path]


def generated_pieces(generator: ImageGenerator, class_id: int | None, seed: int, psi: float = 1.0) -> Piece:
    """Objects of a generator, each from a latent of its own.

    Args:
        generator: whose images have the context of the plan.
        class_id: of the generator's classes; ``None`` where it has none.
        seed: of the latents.
        psi: truncation; 1 for none.
    """
    made: list[Pixels] = []
    batch = 64

    def piece(width: int, height: int, rng: np.random.Generator) -> Pixels:
        if not made:
            seed_of_batch = int(rng.integers(2**31))
            # Many at once: a generator is several times as fast so.
            made.extend(generator.sample(batch, seed_of_batch + seed, class_id, psi))
        return np.asarray(Image.fromarray(made.pop()).resize((width, height), Image.Resampling.BICUBIC))

    return piece


def real_pieces(dataset: Dataset, class_id: int, context: float) -> Piece:
    """Objects of the data themselves, mirrored by chance."""
    crops = [crop for crop in crops_of(dataset) if crop.class_id == class_id]

    def piece(width: int, height: int, rng: np.random.Generator) -> Pixels:
        crop = crops[int(rng.integers(len(crops)))]
        image = dataset.image(crop.image)
        window = window_of(crop.box_xyxy, (image.shape[0], image.shape[1]), context)
        sides = round(window[2] - window[0]), round(window[3] - window[1])
        # In its own pixels: an object must not be blurred before it is scaled to the wanted size.
        cut = cut_out(image, window, max(4, *sides))
        cut = cut[:, ::-1] if rng.random() < 0.5 else cut
        return np.asarray(Image.fromarray(np.ascontiguousarray(cut)).resize((width, height), Image.Resampling.BICUBIC))

    return piece


def synthesize(splits: dict[str, Dataset], train: str, piece: Piece, plan: Plan, out: Path, source: str) -> Synthesized:
    """Writes a data set in COCO layout: all splits as they are, and made images in the one to train on.

    A made image is a real one with up to ``plan.per_image`` more objects, whose boxes follow from where they were put.
    Their sizes are those of real objects; their places are free of others as far as real ones are, and of a few
    candidates the one is taken whose ground fits best. Boxes of the other objects stay.

    Args:
        splits: by name, of the same classes.
        train: name of the split to add to.
        piece: makes objects.
        plan: what to make.
        out: a folder that does not exist, or is empty.
        source: what the objects come from, for the card.

    Raises:
        InputError: the data have no object of the class, or there is no room for further ones.
        ConfigError: ``out`` is not empty.
    """
    dataset = splits[train]
    real = [crop for crop in crops_of(dataset) if crop.class_id == plan.class_id]
    if not real:
        raise InputError(
            f"{dataset.name!r} has no {dataset.class_names[plan.class_id]}: sizes are learned from real ones"
        )
    # The writer copies images into the data set, which then appears as a whole or not at all.
    with TemporaryDirectory() as folder:
        grounds, annotations, objects = _compose(dataset, real, piece, plan, Path(folder))
        added = _with_made(dataset, grounds, annotations, Path(folder))
        written = write_coco({**splits, train: added}, out)
    # The card comes last, into the finished folder: what it says is then there.
    rows = [f"{o.image},{o.ground},{','.join(f'{v:g}' for v in o.box_xyxy)}" for o in objects]
    write_atomic(out / "made.csv", "\n".join(["image,ground,x1,y1,x2,y2", *rows, ""]).encode())
    write_atomic(out / "README.md", _card(splits, train, plan, (len(grounds), len(objects)), source).encode())
    return Synthesized(len(grounds), len(objects), [*written.files, Path("made.csv"), Path("README.md")])


def file_digest(path: Path) -> str:
    """The first letters of a file's SHA-256, which name a generator in a card."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _compose(
    dataset: Dataset, real: list[Crop], piece: Piece, plan: Plan, folder: Path
) -> tuple[list[int], list[Annotations], list[MadeObject]]:
    """Writes made images into ``folder``; returns their grounds, their annotations, and the objects put in."""
    rng = np.random.default_rng(plan.seed)
    placer = _Placer(real, piece, plan.context, _usual_overlap(dataset, real), rng)
    grounds: list[int] = []
    annotations: list[Annotations] = []
    objects: list[MadeObject] = []
    empty = 0
    while len(objects) < plan.objects:
        # Every real image serves once before one serves again.
        if len(grounds) % len(dataset) == 0 and not empty:
            order = rng.permutation(len(dataset))
        index = int(order[(len(grounds) + empty) % len(dataset)])
        image, before = dataset.image(index).copy(), dataset.annotations(index)
        boxes = before.boxes_xyxy
        wanted = min(int(rng.integers(1, plan.per_image + 1)), plan.objects - len(objects))
        placed = []
        for _ in range(wanted):
            box = placer.put(image, boxes)
            if box is not None:
                placed.append(box)
                boxes = np.concatenate([boxes, box[None]])
        if not placed:
            empty += 1
            if empty > 4 * len(dataset):
                raise InputError(
                    f"{len(objects)} of {plan.objects} objects were placed, then no image had room left: ask for fewer"
                )
            continue
        name = made_name(len(grounds) + 1)
        Image.fromarray(image).save(folder / name)
        objects += [MadeObject(name, str(dataset.names[index]), tuple(float(v) for v in box)) for box in placed]
        grounds.append(index)
        annotations.append(_more(before, np.stack(placed), plan.class_id))
    return grounds, annotations, objects


class _Placer(NamedTuple):
    """Puts objects into images.

    Attributes:
        real: objects whose sizes are taken.
        piece: makes objects.
        context: of the pieces.
        limit: share of a made object, at most, that others may cover.
        rng: chance.
    """

    real: list[Crop]
    piece: Piece
    context: float
    limit: float
    rng: np.random.Generator

    def put(self, image: Pixels, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
        """Puts one object into ``image``, in place, and returns its box; ``None`` where there is no room."""
        model = self.real[int(self.rng.integers(len(self.real)))].box_xyxy
        sides = (model[2:] - model[:2]) * self.rng.uniform(1 - _JITTER, 1 + _JITTER)
        height, width = image.shape[:2]
        # Whole pixels: the object fills the same part of the piece as of the crops that were learned.
        w, h = (max(4, round(float(side) * self.context)) for side in sides)
        if w > _SIZE_LIMIT * width or h > _SIZE_LIMIT * height:
            return None
        made = self.piece(w, h, self.rng)
        candidates: list[tuple[float, int, int]] = []
        for _ in range(_TRIES):
            left, top = int(self.rng.integers(0, width - w + 1)), int(self.rng.integers(0, height - h + 1))
            if _overlap(_inner(left, top, w, h, self.context), boxes) <= self.limit:
                difference = border_difference(image[top : top + h, left : left + w], made)
                candidates.append((difference, left, top))
            if len(candidates) == _CANDIDATES:
                break
        if not candidates:
            return None
        _, left, top = min(candidates)
        blend(image, made, left, top)
        return _inner(left, top, w, h, self.context)


def _inner(left: int, top: int, w: int, h: int, context: float) -> npt.NDArray[np.float32]:
    """The object's box in a piece at (left, top) of w × h pixels."""
    dx, dy = w * (1 - 1 / context) / 2, h * (1 - 1 / context) / 2
    return np.array([left + dx, top + dy, left + w - dx, top + h - dy], np.float32)


def _overlap(box: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32]) -> float:
    """The largest share of ``box`` that another box covers."""
    if not len(boxes):
        return 0.0
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = (high - low).clip(min=0).prod(1)
    return float(shared.max() / (box[2:] - box[:2]).prod())


def _usual_overlap(dataset: Dataset, real: list[Crop]) -> float:
    """How much of a real object others cover, in three of four cases at most."""
    # Real objects tell how much they usually hide each other, as cells in a sample do.
    shares = []
    for crop in real:
        others = dataset.annotations(crop.image).boxes_xyxy
        same = pairwise_iou(crop.box_xyxy[None], others)[0] > 0.999
        shares.append(_overlap(crop.box_xyxy, others[~same]))
    return float(np.quantile(shares, 0.75))


def _more(before: Annotations, boxes: npt.NDArray[np.float32], class_id: int) -> Annotations:
    count = len(boxes)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    # A made object is none that is hard to see, and never a crowd.
    no = np.zeros(count, np.bool_)
    return Annotations(
        np.concatenate([before.boxes_xyxy, boxes]),
        np.concatenate([before.class_ids, np.full(count, class_id, np.int64)]),
        np.concatenate([before.areas, areas.astype(np.float32)]),
        np.concatenate([before.crowd, no]),
        np.concatenate([before.difficult, no]),
        NO_FIELDS,  # such as masks, which made objects have not
    )


def _with_made(dataset: Dataset, grounds: list[int], annotations: list[Annotations], folder: Path) -> Dataset:
    count = len(dataset)
    names = [made_name(i + 1) for i in range(len(grounds))]
    # All images have the same fields: since made objects have no masks, the real ones lose theirs.
    own = [dataset.annotations(i)._replace(fields=NO_FIELDS) for i in range(count)]
    sizes = [dataset.size_hw(i) for i in (*range(count), *grounds)]
    return Dataset(
        dataset.name,
        dataset.class_names,
        names=[*dataset.names.tolist(), *names],
        sources=[*(dataset.source(i) for i in range(count)), *(folder / name for name in names)],
        annotations=[*own, *annotations],
        sizes_hw=np.array(sizes, np.int32).reshape(-1, 2),
        problems=dataset.problems,
    )


def _card(splits: dict[str, Dataset], train: str, plan: Plan, made: tuple[int, int], source: str) -> str:
    real = "\n".join(f"- `{name}`: {len(dataset):,} real images" for name, dataset in splits.items())
    images, objects = made
    return f"""# Real and made images

{real}
- `{train}` also holds {images:,} made images, `{made_name(1)}` and on: real ones of the same split with {objects:,}
  more objects of the class {splits[train].class_names[plan.class_id]!r}, made from {source}.

`made.csv` names for each made object its image, the real image under it, and its box in pixels. Written by phidet
{__version__}, seed {plan.seed}. Made images are for training: measure on real ones.
"""
