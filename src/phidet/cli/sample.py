"""``phidet sample``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.arguments import add_layout, add_out, finite, seed_number
from phidet.core.errors import ConfigError

if TYPE_CHECKING:
    from phidet.inference.generator import ImageGenerator

_KINDS = ("images", "grid", "mixing", "truncation", "path", "film", "page", "nearest")
_EPILOG = """what --as makes:
  images      a folder of single images
  grid        one sheet of samples, a class to each row in turn (the default)
  mixing      styles of one image in coarse, middle and fine layers of others
  truncation  the same latents from the average (psi 0) to no truncation (psi 1)
  path        between two latents, through z and through w
  film        an endless walk through w (.gif, .webp or .png)
  page        an HTML file to mix styles per scale and to walk through w, which needs no server
  nearest     samples beside the real images most like them (--real DATA), to see what was learned by heart

A file exported to ONNX is sampled without PyTorch, but for nearest.

examples:
  phidet sample runs/stylegan-64-small-1
  phidet sample best.onnx --class platelets --as images --count 100 -o platelets"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet sample``."""
    parser.epilog = _EPILOG
    parser.add_argument("generator", metavar="GENERATOR", help="a file (.safetensors or .onnx), or the folder of a run")
    parser.add_argument("--as", dest="kind", choices=_KINDS, default="grid", metavar="KIND", help="see below (grid)")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="the class, where the generator takes one")
    parser.add_argument("--count", type=int, default=96, metavar="N", help="images, or frames of a film (96)")
    parser.add_argument("--psi", type=finite, default=1.0, help="truncation: below 1 typical, less varied images (1)")
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument("--scale", type=int, default=2, metavar="N", help="enlarge the pixels of sheets (2)")
    parser.add_argument("--real", type=Path, metavar="DATA", help="for nearest: what the generator was trained on")
    add_layout(parser)
    add_out(parser, "OUT", "the file or folder to write (KIND.png)")


def run(args: argparse.Namespace) -> None:
    """Writes what was asked for, and prints where."""
    from phidet.inference.generator import open_generator

    if args.count < 1 or args.scale < 1:
        raise ConfigError(f"--count and --scale must be whole numbers ≥ 1, got {args.count} and {args.scale}")
    if (args.kind == "nearest") != (args.real is not None):
        raise ConfigError("--as nearest and --real DATA belong together")
    generator = open_generator(args.generator)
    ending = {"film": ".gif", "page": ".html", "images": ""}.get(args.kind, ".png")
    out = args.out or Path(f"{args.kind}{ending}")
    if args.kind == "images":
        _write_images(generator, args, out)
    elif args.kind == "nearest":
        _write_nearest(generator, args, out)
    else:
        _write_sheet(generator, args, out)
    print(f"wrote {out}")


def _write_sheet(generator: ImageGenerator, args: argparse.Namespace, out: Path) -> None:
    from phidet.inference import sample_sheets as sheets
    from phidet.inference.generator import image_grid
    from phidet.inference.sample_page import write_page

    # Without a class named, each row has one in turn, so that the sheet shows all of them.
    if args.kind == "grid" and args.class_name is None:
        columns = min(12, args.count)
        sheet = sheets.sample_sheet(generator, -(-args.count // columns), columns, args.seed, args.psi)
        sheets.save_sheet(sheet, out, args.scale)
        return
    class_id = generator.class_id(args.class_name)
    if args.kind == "film":
        sheets.film(generator, out, args.count, args.seed, (class_id, args.psi))
    elif args.kind == "page":
        write_page(generator, out, args.seed, class_id, args.psi)
    else:
        sheet = {
            "grid": lambda: image_grid(generator.sample(args.count, args.seed, class_id, args.psi), 12),
            "mixing": lambda: sheets.mixing_sheet(generator, 6, args.seed, class_id, args.psi),
            "truncation": lambda: sheets.truncation_sheet(generator, 6, args.seed, class_id),
            "path": lambda: sheets.latent_path(generator, 9, args.seed, class_id),
        }[args.kind]()
        sheets.save_sheet(sheet, out, args.scale)


def _write_images(generator: ImageGenerator, args: argparse.Namespace, out: Path) -> None:
    from functools import partial

    from PIL import Image

    from phidet.core.files import write_atomic_with
    from phidet.data.made import made_name

    out.mkdir(parents=True, exist_ok=True)
    images = generator.sample(args.count, args.seed, generator.class_id(args.class_name), args.psi)
    for i, image in enumerate(images, start=1):
        write_atomic_with(out / made_name(i), partial(Image.fromarray(image).save, format="png"))


def _write_nearest(generator: ImageGenerator, args: argparse.Namespace, out: Path) -> None:
    import torch

    from phidet.data.crops import CropImages
    from phidet.data.objects import read_objects
    from phidet.inference.sample_sheets import save_sheet
    from phidet.training.features import Lite0Features
    from phidet.training.generate_report import REAL, nearest_to

    config = generator.config
    real = CropImages(read_objects(args.real, args.layout), config.image_size_hw[0], config.context, REAL)
    # A dozen at most: each is compared with every real image.
    made = generator.sample(min(args.count, 12), args.seed, generator.class_id(args.class_name), args.psi)
    save_sheet(nearest_to(made, real, Lite0Features(torch.device("cpu"))), out, args.scale)
