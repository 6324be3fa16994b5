"""``phidet convert-data``."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.arguments import add_layout
from phidet.cli.native_noise import without_native_noise
from phidet.core.errors import ConfigError

if TYPE_CHECKING:
    from phidet.data.data_folder import DataFolder
    from phidet.data.dataset import Dataset, Problem

SHOWN = 5  # problems of each kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet convert-data``."""
    parser.epilog = (
        "reads: COCO JSON, Pascal VOC, YOLO, TFRecord, recognised by what the files hold\n"
        "The original is not changed; the target is written completely or not at all."
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="a data folder, or its JSON, YAML or TFRecord file")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; it must not exist, or be empty")
    parser.add_argument("--to", required=True, choices=["coco", "yolo", "voc", "tfrecord"], help="what to write")
    parser.add_argument("--split", nargs="+", metavar="NAME", help="only these splits (all)")
    add_layout(parser)
    parser.add_argument("--images-per-shard", type=int, metavar="N", help="for tfrecord (1000)")


@without_native_noise()
def run(args: argparse.Namespace) -> None:
    """Converts a data set, and prints what was written and what was left out."""
    from phidet.core.words import count as counted
    from phidet.core.words import few
    from phidet.data.layouts import open_data
    from phidet.data.writers.coco import write_coco
    from phidet.data.writers.tfrecord import write_tfrecord
    from phidet.data.writers.voc import write_voc
    from phidet.data.writers.yolo import write_yolo

    if args.images_per_shard is not None and args.to != "tfrecord":
        raise ConfigError("--images-per-shard belongs to --to tfrecord")
    folder = open_data(args.data, args.layout)
    datasets = _read(folder, args.split or folder.splits)
    if args.to == "tfrecord":
        # The usual number is the writer's own.
        shard = {} if args.images_per_shard is None else {"images_per_shard": args.images_per_shard}
        written = write_tfrecord(datasets, args.out, **shard)
    else:
        write = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}[args.to]
        written = write(datasets, args.out)
    classes = len(next(iter(datasets.values())).class_names)
    print(f"read  {args.data} ({folder.layout}), {counted(classes, 'class')}")
    print(f"wrote {args.out} ({args.to}): {few(written.files, SHOWN)}")
    for split, images in written.images.items():
        print(f"      {split}: {counted(images, 'image')}, {counted(written.objects[split], 'object')}")
    # A file that several splits list reports its problems in each of them.
    _print_problems(list(dict.fromkeys([p for d in datasets.values() for p in d.problems] + written.problems)))


def _read(folder: DataFolder, splits: Sequence[str]) -> dict[str, Dataset]:
    """The splits, with the same classes in all of them."""
    datasets = {split: folder.read(split) for split in dict.fromkeys(splits)}
    # One list of classes for all splits, as writers need; a split with other classes is read again with it.
    names = list(dict.fromkeys(name for dataset in datasets.values() for name in dataset.class_names))
    return {
        split: dataset if list(dataset.class_names) == names else folder.read(split, names)
        for split, dataset in datasets.items()
    }


def _print_problems(problems: Sequence[Problem]) -> None:
    for kind, count in Counter(problem.kind for problem in problems).most_common():
        print(f"\n{kind}: {count:,}")
        some = [problem for problem in problems if problem.kind == kind][:SHOWN]
        for problem in some:
            print(f"  {problem.where}: {problem.what}")
        if count > len(some):
            print(f"  and {count - len(some):,} more")
