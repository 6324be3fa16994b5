"""``phidet explain``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.arguments import add_limit
from phidet.cli.native_noise import without_native_noise
from phidet.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from phidet.architectures.model import Model

EPILOG = """examples:
  phidet explain photo.jpg -m runs/cells                        which pixels support the best detections
  phidet explain photo.jpg -m efficientnet-lite0 -m efficientnet-lite2    side by side
  phidet explain photo.jpg -m efficientnet-lite0 --class tabby
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet explain``."""
    parser.epilog = EPILOG
    parser.usage = "%(prog)s IMAGE -m MODEL [-m MODEL ...] [options]"
    parser.add_argument("given", nargs="+", metavar="IMAGE", help="an image file")
    parser.add_argument(
        *("-m", "--model"),
        action="append",
        dest="models",
        metavar="MODEL",
        help="a model file, a run folder, or the name of a classifier; several are drawn side by side",
    )
    parser.add_argument("--out", type=Path, default=Path("explain.png"), metavar="PNG", help="(explain.png)")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="only this class")
    parser.add_argument(
        "--point", type=_point, metavar="X,Y", help="instead: where a DETR's encoder looks from this pixel"
    )
    add_limit(parser, 3, "maps of each model")


def _point(text: str) -> tuple[float, float]:
    """ "120,80" as (120.0, 80.0)."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a pixel as X,Y, got {text!r}") from None
    return x, y


@without_native_noise()
def run(args: argparse.Namespace) -> None:
    """Draws the maps of all models beside the image."""
    from phidet.architectures.registry import architecture_of
    from phidet.core.files import write_atomic_with
    from phidet.evaluation.explain import comparison, explain
    from phidet.images.decode import read_image

    models, path = _models_and_image(args.given, args.models)
    image = read_image(path)
    maps = []
    for name in models:
        model = _load(name)
        if args.point is not None:
            # Attention is asked of a pixel, gradients of a detection: they are two questions to an architecture.
            found = [architecture_of(model.config).explain_point(model.eval(), image, args.point)]
        else:
            found = explain(model, image, args.class_name, args.limit)
        maps.append((model.config.name, found))
        print(f"{model.config.name}: " + ", ".join(f"{one.label} {one.score:.3f}" for one in found))
    write_atomic_with(args.out, lambda out: comparison(image, path.name, maps).save(out, format="png"))
    print(f"wrote {args.out}", file=sys.stderr)


def _models_and_image(given: list[str], models: list[str] | None) -> tuple[list[str], Path]:
    """``IMAGE -m MODEL …``, or as in version 0.1 ``MODEL … IMAGE``.

    Raises:
        ConfigError: one of them is missing, or there is more.
    """
    # The order of version 0.1, kept so that existing scripts work.
    if models is None and len(given) > 1:
        return given[:-1], Path(given[-1])
    if models is None or len(given) != 1:
        raise ConfigError("say which image and which model to explain: phidet explain IMAGE -m MODEL")
    return models, Path(given[0])


def _load(name: str) -> Model:
    """A model file, the best one of a run folder, or a published classifier with its ImageNet weights."""
    from phidet.architectures.registry import publishes
    from phidet.inference.runtimes.open_model import model_file
    from phidet.weights.create import create_classifier
    from phidet.weights.native import load_model

    path = model_file(name) or Path(name)
    if not path.is_file() and publishes(name, "classes"):
        return create_classifier(name, pretrained="imagenet").eval()
    if not path.is_file():
        raise CheckpointError(
            f"there is no model {name!r} that can be explained: expected a .safetensors file, the folder of a training "
            "run, or a published classifier such as efficientnet-b0"
        )
    return load_model(path)
