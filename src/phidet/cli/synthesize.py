"""``phidet synthesize``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.arguments import add_layout, add_out, finite, seed_number
from phidet.core.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from phidet.data.dataset import Dataset
    from phidet.inference.synthesize import Piece

_EPILOG = """The new data set holds the real images, and made ones in the split to train on: real images with further
objects, whose boxes follow. Made images are called made-by-phidet-…, 'phidet doctor' counts them, and 'phidet eval'
refuses to measure on them. Where the data have no validation split, one is held out before anything is made.

examples:
  phidet synthesize cells --class platelets --count 500 -o more-cells         objects of other images
  phidet train cells --task generate -o cells-generator                       a generator of the objects in the data
  phidet synthesize cells -g cells-generator --class platelets --count 500 -o more-cells"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet synthesize``."""
    parser.epilog = _EPILOG
    parser.add_argument("data", type=Path, metavar="DATA", help="a data folder or file, in any layout")
    add_layout(parser)
    parser.add_argument("-g", "--generator", metavar="MODEL", help="a generator: a file, or the folder of its run")
    sources = ["generator", "crops"]
    parser.add_argument("--from", dest="source", choices=sources, help="what objects come from (crops without -g)")
    parser.add_argument("--class", dest="class_name", required=True, metavar="NAME", help="of the objects")
    parser.add_argument("--count", type=int, default=500, metavar="N", help="objects to make (500)")
    parser.add_argument("--per-image", type=int, default=3, metavar="N", help="at most in one image (3)")
    parser.add_argument("--psi", type=finite, default=1.0, help="truncation: below 1 typical, less varied objects (1)")
    parser.add_argument("--seed", type=seed_number, default=0)
    add_out(parser, "DIR", "the folder to write; it must not exist, or be empty")


def run(args: argparse.Namespace) -> None:
    """Writes a data set with made images, and prints what is in it."""
    from phidet.inference.synthesize import Plan, synthesize

    if args.out is None:
        raise ConfigError("say where to write the new data set: -o DIR")
    for name in ("count", "per_image"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be a whole number ≥ 1, got {getattr(args, name)}")
    if args.source is not None and (args.source == "generator") != (args.generator is not None):
        raise ConfigError("objects come from a generator (-g MODEL) or from other images (--from crops): name one")
    splits, train = _read(args)
    names = splits[train].class_names
    # Small and capital letters are one: names of classes are long to type.
    by_name = {name.casefold(): i for i, name in enumerate(names)}
    if args.class_name.casefold() not in by_name:
        raise UnknownNameError(f"class of {args.data}", args.class_name, names)
    class_id = by_name[args.class_name.casefold()]
    piece, context, source = _pieces(args, splits[train], class_id)
    plan = Plan(class_id, args.count, args.per_image, context, args.seed)
    made = synthesize(splits, train, piece, plan, args.out, source)
    print(f"wrote {args.out} (coco): {', '.join(str(file) for file in made.files)}")
    added = f"{made.images:,} made ones with {made.objects:,} more objects"
    print(f"      {train}: {len(splits[train]):,} real images, {added}")


def _pieces(args: argparse.Namespace, train: Dataset, class_id: int) -> tuple[Piece, float, str]:
    """What makes objects, their context, and where they come from in words."""
    from phidet.inference.generator import open_generator
    from phidet.inference.runtimes.open_model import find_model
    from phidet.inference.synthesize import file_digest, generated_pieces, real_pieces

    if args.generator is None:
        context = 1.25
        return real_pieces(train, class_id, context), context, "crops of the real images of this split"
    generator = open_generator(args.generator)
    path = find_model(args.generator, ".safetensors")
    chosen = generator.class_id(args.class_name) if generator.config.labelled else None
    source = f"the generator {generator.config.name} ({path.name}, SHA-256 {file_digest(path)}…), psi {args.psi:g}"
    return generated_pieces(generator, chosen, args.seed, args.psi), generator.config.context, source


def _read(args: argparse.Namespace) -> tuple[dict[str, Dataset], str]:
    """All splits with the classes of the one to train on, and its name."""
    from phidet.data.hold_out import HELD_OUT, hold_out
    from phidet.data.layouts import open_data

    folder = open_data(args.data, args.layout)
    name = folder.train_split()
    train = folder.read(name)
    splits = {name: train}
    val = folder.val_split()
    # Before anything is made: an image that others were made of must not be validated on.
    if val is None:
        splits[name], splits["val"] = hold_out(train, HELD_OUT, args.seed)
    for split in folder.splits:
        # Splits that contain the training images, as VOC's trainval does, would bring them twice.
        if split == val or (split != name and split.startswith("test")):
            splits[split] = folder.read(split, train.class_names)
    return splits, name
