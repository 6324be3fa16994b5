"""Image sheets: samples of every split with their boxes, and suspicious images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.core.errors import InputError
from phidet.core.words import count
from phidet.data.dataset import Annotations, Dataset
from phidet.data.doctor.examine import Examination
from phidet.data.doctor.facts import DuplicateImages
from phidet.detections.boxes import area
from phidet.detections.draw_masks import draw_masks
from phidet.detections.sheet import Tile, class_legend, draw_sheet, write_sheet
from phidet.images.decode import read_image

SAMPLES = 12
_MANY, _NAMED = 12, 3  # in an image of more objects, only the largest of each class are named
SUSPICIOUS = 40  # tiles on the sheet of suspicious images
_FAULTS, _PAIRS = 12, 8  # of these; pairs of each kind of duplicates


def write_sheets(examination: Examination, out: Path, seed: int = 0) -> list[Path]:
    """Writes ``samples-<split>.png`` and, if anything is suspicious, ``suspicious.png``; equal for equal seeds."""
    written = []
    for name, dataset in examination.datasets.items():
        faulty = {index for split, index in examination.faulty if split == name}
        tiles = [sample_tile(dataset, i) for i in choose_samples(dataset, faulty, seed)]
        if tiles:
            heading = f"{name}: {count(len(dataset), 'image')}, {count(len(dataset.all_annotations.areas), 'object')}"
            sheet = draw_sheet(heading, tiles, legend=class_legend(dataset.class_names))
            file_name = re.sub(r"[^\w.-]+", "-", f"samples-{name}.png")
            written.append(write_sheet(sheet, out / file_name))
    tiles = list(islice(_suspicious(examination), SUSPICIOUS))
    if tiles:
        written.append(write_sheet(draw_sheet("Look twice", tiles), out / "suspicious.png"))
    return written


def choose_samples(dataset: Dataset, without: set[int], seed: int, limit: int = SAMPLES) -> list[int]:
    """Images drawn at random, those first that show a class which the ones before do not."""
    order = [int(i) for i in np.random.default_rng(seed).permutation(len(dataset)) if int(i) not in without]
    shown: set[int] = set()
    chosen: list[int] = []
    for i in order:
        classes = set(dataset.annotations(i).class_ids.tolist())
        # A few samples should show as many classes as possible, which plain random draws miss on long-tailed data.
        if classes - shown and len(chosen) < limit:
            chosen.append(i)
            shown |= classes
    rest = [i for i in order if i not in set(chosen)]
    return [*chosen, *rest][:limit]


def sample_tile(dataset: Dataset, index: int) -> Tile:
    """A tile of an image with its objects; empty where the image cannot be decoded."""
    found = dataset.annotations(index)
    height, width = dataset.size_hw(index)
    try:
        image = dataset.image(index)
        masks = dataset.masks(index)
        if masks is not None:
            image = np.asarray(draw_masks(Image.fromarray(image), masks, found.class_ids))
    except InputError:
        image = None
    subtitle = f"{width}×{height}, {count(len(found.areas), 'object')}"
    return _tile(dataset, image, found, (str(dataset.names[index]), subtitle))


def _tile(dataset: Dataset, image: npt.NDArray[np.uint8] | None, found: Annotations, text: tuple[str, str]) -> Tile:
    ids = found.class_ids.tolist()
    names = [
        dataset.class_names[c] + (" (crowd)" if crowd else " (difficult)" if difficult else "")
        for c, crowd, difficult in zip(ids, found.crowd, found.difficult, strict=True)
    ]
    # Fifty names would hide the image; the colour identifies the others.
    if len(ids) > (_MANY if len(dataset.class_names) > 1 else 0):
        legend = class_legend(dataset.class_names)
        named: Counter[str] = Counter()
        for i in np.argsort(-area(found.boxes_xyxy), kind="stable"):
            named[names[i]] += 1
            if named[names[i]] > (0 if legend and "(" not in names[i] else _NAMED):
                names[i] = ""
    return Tile(*text, image, found.boxes_xyxy, names, ids)


def _suspicious(examination: Examination) -> Iterator[Tile]:
    """Faulty images, then duplicates side by side, then boxes; rows of four never split a pair."""
    yield from _even(_fault_tiles(examination))
    groups = examination.report.duplicate_images
    # Certain copies before likely ones, in case there is no place for all.
    for near in (False, True):
        some = [group for group in groups if (group.kind == "near") == near]
        for group in some[:_PAIRS]:
            yield from _pair(examination.datasets, group)
    yield from _box_tiles(examination)


def _even(tiles: Iterator[Tile]) -> Iterator[Tile]:
    shown = list(islice(tiles, _FAULTS))
    yield from shown
    # Rows have four tiles: with an even number before them, pairs stay side by side.
    if len(shown) % 2:
        yield Tile("", "", np.full((1, 1, 3), 255, np.uint8))


def _fault_tiles(examination: Examination) -> Iterator[Tile]:
    what = {
        (split, finding.image): (group.kind, finding.what)
        for group in examination.report.findings
        for finding in group.items
        for split in finding.splits
        if finding.box_xyxy is None
    }
    for split, index in sorted(examination.faulty):
        dataset = examination.datasets[split]
        name = str(dataset.names[index])
        kind, why = what.get((split, name), ("image unreadable", ""))
        try:
            image = read_image(dataset.source(index))
        except InputError:
            image = None
        why = why.replace(str(dataset.source(index)), "").strip()
        yield Tile(f"{kind}: {name}", why, image, alarm=True)


def _pair(datasets: Mapping[str, Dataset], group: DuplicateImages) -> Iterator[Tile]:
    """Two members, of two splits where there are as many."""
    first = group.members[0]
    second = next((m for m in group.members[1:] if m.split != first.split), group.members[1])
    more = len(group.members) - 2
    kind = "looks the same" if group.kind == "near" else group.kind
    for member, title in ((first, kind), (second, f"and {more} more" if more else "as")):
        dataset = datasets[member.split]
        index = _index(dataset, member.image)
        tile = sample_tile(dataset, index)
        subtitle = f"in {member.split}, {tile.subtitle}"
        yield tile._replace(title=f"{title}: {member.image}", subtitle=subtitle, alarm=len(group.splits) > 1)


def _box_tiles(examination: Examination) -> Iterator[Tile]:
    datasets = examination.datasets
    for double in examination.report.duplicate_boxes:
        dataset = datasets[double.split]
        index = _index(dataset, double.image)
        box = dataset.annotations(index).boxes_xyxy[double.first]
        tile = sample_tile(dataset, index)
        subtitle = f"in {double.split}: {double.class_name}, IoU {double.iou:.2f}"
        yield tile._replace(title=f"labelled twice: {double.image}", subtitle=subtitle, marks_xyxy=[tuple(box)])
    for group in examination.report.findings:
        for finding in group.items:
            split = next((split for split in finding.splits if split in datasets), None)
            if finding.image is None or finding.box_xyxy is None or split is None:
                continue
            tile = sample_tile(datasets[split], _index(datasets[split], finding.image))
            title = f"{group.kind}: {finding.image}"
            yield tile._replace(title=title, subtitle=finding.what, marks_xyxy=[finding.box_xyxy])


def _index(dataset: Dataset, name: str) -> int:
    return int(np.flatnonzero(dataset.names == name)[0])
