"""The examination of a data set from end to end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from phidet.core.errors import InputError
from phidet.data.data_folder import DataFolder, Layout
from phidet.data.dataset import Dataset, Problem
from phidet.data.doctor.advice import ERRORS, WARNINGS, advise
from phidet.data.doctor.decoding import ImageCheck, ImageFile, check_images
from phidet.data.doctor.duplicates import near_groups, same_groups
from phidet.data.doctor.facts import DuplicateImages, Finding, Findings, Member, Report, SameAs
from phidet.data.doctor.labels import class_facts, duplicate_boxes, split_facts, unions
from phidet.data.doctor.masks import mask_problems
from phidet.data.doctor.unused import unused_files
from phidet.data.doctor.view import NetworkView
from phidet.data.layouts import open_data
from phidet.data.tfrecord_file import RecordImage


class Examination(NamedTuple):
    """The report, and the data that sheets and a clean copy are made from.

    Attributes:
        report: everything that was found.
        datasets: the splits that are not made of others, by name.
        faulty: images that cannot be used, as (split, index).
    """

    report: Report
    datasets: dict[str, Dataset]
    faulty: frozenset[tuple[str, int]]


class _Entry(NamedTuple):
    """An image of a split, and its number among the distinct files."""

    split: str
    image: int
    file: int


def examine(path: Path, network: NetworkView, decode: bool = True, layout: Layout | None = None) -> Examination:
    """Examines the data at ``path`` for a model.

    Args:
        path: as :func:`phidet.data.layouts.open_data` takes it.
        network: its anchors and input size are compared with the boxes.
        decode: decode every image; else read headers only, and compare files by their bytes.
        layout: of the data; recognised unless given.

    Raises:
        InputError: there is nothing at ``path``, or no known layout.
    """
    folder = open_data(path, layout)
    every, problems = _read(folder)
    # A split that is the union of others (VOC's trainval) would make every image a duplicate.
    made_of = unions({name: frozenset(_keys(dataset)) for name, dataset in every.items()})
    datasets = {name: dataset for name, dataset in every.items() if name not in made_of}
    train, val = _roles(folder, datasets)

    entries, files = _distinct(datasets)
    checks = check_images(files, decode)
    for e in entries:
        check, name = checks[e.file], str(datasets[e.split].names[e.image])
        found = [check.fault, None if check.dark is None else ("image dark", check.dark)]
        problems += [(e.split, Problem(one[0], name, one[1], name)) for one in found if one is not None]
    if decode:
        problems += [(name, problem) for name, dataset in datasets.items() for problem in mask_problems(dataset)]

    splits = [split_facts(dataset, made_of.get(name, ()), network.image_size_hw) for name, dataset in every.items()]
    report = Report(
        path=str(path),
        layout=folder.layout,
        model=network.name,
        image_size_hw=network.image_size_hw,
        anchor_scale=None if network.anchors is None else network.anchors.scale,
        decoded=decode,
        splits=splits,
        classes=class_facts([split for split in splits if not split.made_of], train, val),
        findings=_group(problems),
        duplicate_images=_duplicate_images(datasets, entries, files, checks),
        duplicate_boxes=[found for dataset in datasets.values() for found in duplicate_boxes(dataset)],
        unused_files=unused_files(folder, list(every.values()), (problem.where for _, problem in problems)),
        coverage=None if network.anchors is None else network.anchors.coverage(list(datasets.values())),
        advice=[],
    )
    report = msgspec.structs.replace(report, advice=advise(report, train, val))
    faulty = frozenset((e.split, e.image) for e in entries if checks[e.file].fault is not None)
    return Examination(report, datasets, faulty)


def _read(folder: DataFolder) -> tuple[dict[str, Dataset], list[tuple[str, Problem]]]:
    """Every split with images, and all problems with the split they are in."""
    datasets, problems = {}, []
    for name, read in folder.readers.items():
        try:
            dataset = read(None)
        except InputError as error:
            # Recorded as a finding: one bad split must not hide the report on the others.
            problems.append((name, Problem("split unreadable", name, str(error))))
            continue
        problems += [(name, problem) for problem in dataset.problems]
        if len(dataset):
            datasets[name] = dataset
        else:
            what = f"the split {name} of {folder.path} has no usable image"
            problems.append((name, Problem("split empty", name, what)))
    return datasets, problems


def _roles(folder: DataFolder, datasets: Mapping[str, Dataset]) -> tuple[str | None, str | None]:
    """The splits to train and to validate on, among those that can be read."""
    # Of splits that cannot be read none is trained on, and advice on the others should still be given.
    left = folder._replace(readers={name: folder.readers[name] for name in datasets})
    try:
        return left.train_split(), left.val_split()
    except InputError:
        return None, left.val_split()


def _group(problems: Iterable[tuple[str, Problem]]) -> list[Findings]:
    """Problems by kind, the grave ones first; one that several splits share is one finding."""
    splits: dict[Problem, list[str]] = defaultdict(list)
    for split, problem in problems:
        # Splits may share a label file, whose problems would be listed once for each of them.
        if split not in splits[problem]:
            splits[problem].append(split)
    kinds: dict[str, list[Finding]] = defaultdict(list)
    for problem, names in splits.items():
        kinds[problem.kind].append(Finding(names, *problem[1:]))
    # The order of the tables in advice is by severity.
    order = [*ERRORS, *WARNINGS]
    ranks = {kind: order.index(kind) if kind in order else len(order) for kind in kinds}
    return [Findings(kind, kinds[kind]) for kind in sorted(kinds, key=lambda kind: (ranks[kind], kind))]


def _key(source: Path | RecordImage) -> tuple[str, int]:
    path, offset = (source.path, source.offset) if isinstance(source, RecordImage) else (source, 0)
    return str(path.resolve()), offset


def _keys(dataset: Dataset) -> list[tuple[str, int]]:
    return list(map(_key, dataset.sources))


def _distinct(datasets: Mapping[str, Dataset]) -> tuple[list[_Entry], list[ImageFile]]:
    """All images of all splits, and the files behind them, each once for each size that labels give it."""
    # A file is decoded once, however many splits list it; again only where labels give it another size.
    numbers: dict[tuple[tuple[str, int], tuple[int, int]], int] = {}
    entries: list[_Entry] = []
    files: list[ImageFile] = []
    for name, dataset in datasets.items():
        for i, key in enumerate(_keys(dataset)):
            size_hw = dataset.size_hw(i)
            number = numbers.setdefault((key, size_hw), len(files))
            if number == len(files):
                files.append(ImageFile(dataset.source(i), size_hw))
            entries.append(_Entry(name, i, number))
    return entries, files


def _duplicate_images(
    datasets: Mapping[str, Dataset], entries: Sequence[_Entry], files: Sequence[ImageFile], checks: Sequence[ImageCheck]
) -> list[DuplicateImages]:
    """Exact copies, then near ones, those in several splits first."""
    of_file: dict[int, list[_Entry]] = defaultdict(list)
    for entry in entries:
        of_file[entry.file].append(entry)
    exact = same_groups(checks)
    grouped = {i for group in exact for i in group}
    exact += [[i] for i, found in of_file.items() if i not in grouped and len(found) > 1]
    # The first of each exact group stands for all of it in the search for near copies.
    copies = {i for group in exact for i in group[1:]}  # near copies are sought among images that differ
    different = [i for i in range(len(files)) if i not in copies]
    sizes_hw = np.array([files[i].size_hw for i in different], np.int32).reshape(-1, 2)
    near = [[different[i] for i in group] for group in near_groups([checks[i] for i in different], sizes_hw)]
    found = []
    for group in [*exact, *near]:
        members = [entry for i in group for entry in of_file[i]]
        kind: SameAs = "near"
        if group in exact:
            same_bytes = len({checks[i].content for i in group}) == 1
            same_file = len({_key(files[i].source) for i in group}) == 1
            kind = "same file" if same_file else "same bytes" if same_bytes else "same pixels"
        found.append(
            DuplicateImages(
                kind,
                [Member(e.split, str(datasets[e.split].names[e.image])) for e in members],
                list(dict.fromkeys(e.split for e in members)),
                len({_labels(datasets[e.split], e.image) for e in members}) == 1,
            )
        )
    return sorted(found, key=lambda g: (g.kind == "near", len(g.splits) == 1))


def _labels(dataset: Dataset, index: int) -> frozenset[tuple[object, ...]]:
    """Boxes and classes of an image, comparable between splits."""
    found = dataset.annotations(index)
    boxes = np.round(found.boxes_xyxy, 1).tolist()
    return frozenset((dataset.class_names[c], *box) for c, box in zip(found.class_ids, boxes, strict=True))
