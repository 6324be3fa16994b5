"""``phidet publish``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet publish``."""
    parser.add_argument("model", metavar="MODEL", help="an .onnx, .xml or .tflite file, a run's folder, or 'person'")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the served model's folder, as models/person")


def run(args: argparse.Namespace) -> None:
    """Publishes a model and prints its version folder."""
    from phidet.serve.models.publish import publish

    version = publish(args.model, args.folder)
    print(f"published {args.model} as version {version.name}: {version}")
