"""``phidet convert``."""

from __future__ import annotations

import argparse
from pathlib import Path

from phidet.cli.arguments import add_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet convert``."""
    parser.epilog = (
        "reads: phidet .safetensors; google/automl .h5; effdet, zylo117, timm, lukemelas, torchvision .pth\n"
        "Nothing in a file is executed. The source is not changed; the target is written completely or not at all."
    )
    parser.add_argument("source", type=Path, metavar="IN", help="a weight file")
    parser.add_argument("target", type=Path, metavar="OUT", help="the file to write")
    add_model(parser, "which published model it is, where the tensors match several")
    parser.add_argument("--to", default="phidet", metavar="DIALECT", help="phidet (default) or a PyTorch dialect")


def run(args: argparse.Namespace) -> None:
    """Converts a weight file and prints a summary."""
    from phidet.weights.convert import convert

    report = convert(args.source, args.target, args.model, args.to)
    print(f"read  {report.source} ({report.kind}): {report.model}, {report.tensors} tensors")
    print(f"wrote {report.target} ({report.to})")
    if report.note:
        print(f"note  {report.note}")
