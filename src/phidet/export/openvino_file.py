"""An ONNX export as OpenVINO IR: an ``.xml`` file and its ``.bin`` with the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import openvino as ov

from phidet.inference.runtimes.openvino_runtime import SECTION


def write_ir(model: onnx.ModelProto, metadata: Mapping[str, str], half: bool, folder: Path, name: str) -> list[Path]:
    """Converts ``model`` and writes ``NAME.xml`` and ``NAME.bin`` into ``folder``; ``metadata`` is phidet's header."""
    source = folder / f"{name}.onnx"
    onnx.save(model, source)
    converted = ov.convert_model(source)
    for key, value in metadata.items():
        converted.set_rt_info(value, [SECTION, key])
    target = folder / f"{name}.xml"
    ov.save_model(converted, target, compress_to_fp16=half)
    source.unlink()
    return [target, target.with_suffix(".bin")]
