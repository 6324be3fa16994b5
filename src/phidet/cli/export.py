"""``phidet export``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet export``."""
    parser.add_argument("model", metavar="MODEL", help="a .safetensors file, a run's folder or a published name")
    parser.add_argument("--half", action="store_true", help="weights in 16 bits: half the file, arithmetic in 32")
    parser.add_argument("-o", "--out", type=Path, metavar="OUT", help="the file to write (beside the model)")


def run(args: argparse.Namespace) -> None:
    """Exports and says what was written."""
    from phidet.export.onnx_file import build_onnx
    from phidet.export.source import load_detector, target_of
    from phidet.weights.native import write_atomically

    model = load_detector(args.model)
    target = args.out or target_of(args.model, ".onnx")
    content = build_onnx(model, args.half).SerializeToString()
    write_atomically(target, content)
    print(f"wrote {target} ({len(content) / 1e6:.1f} MB)")
