"""Exports a trained model to a file for another runtime, and checks it before it is put in place."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from phidet.architectures.header import Header, Precision, to_export_metadata
from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ConfigError, ExportError, MissingExtraError, UnknownNameError
from phidet.core.extras import __version__
from phidet.core.files import raising_write_errors
from phidet.data.dataset import Dataset
from phidet.export.check import Agreement, check_agreement, compare
from phidet.export.int8 import calibration_images, quantise, runtime_advice
from phidet.export.onnx_file import build_onnx, with_header
from phidet.export.onnx_nms import build_onnx_with_nms, check_nms
from phidet.export.onnx_relations import compare_relations, relations_onnx
from phidet.export.place import folder_beside, put_in_place
from phidet.images.decode import read_image
from phidet.inference.runtimes.open_model import open_network
from phidet.inference.runtimes.options import Runtime

Target = Literal["onnx", "openvino", "tflite"]
SUFFIXES: dict[Target, str] = {"onnx": ".onnx", "openvino": ".xml", "tflite": ".tflite"}
CHECKED_IMAGES = 8


class ExportOptions(NamedTuple):
    """What to write.

    Attributes:
        to: the kind of file.
        precision: fp16 halves the file, its arithmetic stays in fp32; int8 needs images to calibrate on.
        nms: decode and suppress inside the graph, for runtimes without phidet; its thresholds are inputs.
    """

    to: Target = "onnx"
    precision: Precision = "fp32"
    nms: bool = False


class ExportReport(NamedTuple):
    """What was written and how near it is to PyTorch; advice on how to run it, "" for none."""

    paths: list[Path]
    megabytes: float
    agreement: Agreement
    advice: str = ""


def export(
    model: Model, target: str | Path, options: ExportOptions | None = None, data: Dataset | None = None
) -> ExportReport:
    """Writes ``model`` to ``target``, after the file was run and compared with it on real images.

    Args:
        model: what to export, at its config's input size.
        target: the file; ``.onnx``, ``.tflite``, or for OpenVINO ``.xml``, which gets a ``.bin`` beside it.
        options: what to write; ONNX in fp32 unless given.
        data: images to calibrate int8 on and to compare on; without it one photograph is compared.

    Raises:
        UnknownNameError, ConfigError: invalid options.
        MissingExtraError: OpenVINO or litert-torch is not installed.
        ExportError: the file disagrees with the model, or cannot be written; what was there stays.
    """
    target, options = Path(target), options or ExportOptions()
    _check(options, target, data)
    if _relates(model) and (options != ExportOptions() or data is not None):
        raise ConfigError(f"{model.config.name} relates detections: it is exported as ONNX in fp32, without images")
    # A photograph, as random pixels give scores so low that any two networks agree on them.
    images = [_portrait()] if data is None else calibration_images(data)
    model = copy.deepcopy(model).cpu().eval()  # the caller's model keeps its device and mode
    with folder_beside(target) as folder:
        with raising_write_errors(target, ExportError):
            made = _make(model, options, folder, target.stem, images)
        agreement = _compare(model, made[0], options, images[:CHECKED_IMAGES])
        check_agreement(agreement, options.precision, target)
        advice = runtime_advice(made[0]) if options.precision == "int8" and options.to == "onnx" else ""
        size = sum(path.stat().st_size for path in made) / 1e6
        return ExportReport(put_in_place(made, target.parent), size, agreement, advice)


_RUNTIME: dict[Target, Runtime] = {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "litert"}
_NEEDS: dict[Target, tuple[str, str]] = {"openvino": ("openvino", "OpenVINO"), "tflite": ("litert_torch", "TFLite")}
"""Kind → (package, name); the extra is called as the kind."""


def _check(options: ExportOptions, target: Path, data: Dataset | None) -> None:
    if options.to not in get_args(Target):
        raise UnknownNameError("kind of export", options.to, get_args(Target))
    if options.precision not in get_args(Precision):
        raise UnknownNameError("precision", options.precision, get_args(Precision))
    suffix = SUFFIXES[options.to]
    if target.suffix != suffix:
        raise ConfigError(
            f"an {options.to} file is written as {suffix}, got {target.name!r}: name it {target.stem}{suffix}"
        )
    if options.precision == "int8" and data is None:
        raise ConfigError(
            "int8 needs images like those that the model will be used on: give a data set to calibrate on"
        )
    if options.nms and (options.to != "onnx" or options.precision == "int8"):
        raise ConfigError("suppression inside the graph goes with ONNX in fp32 or fp16: leave out the other option")
    package, name = _NEEDS.get(options.to, ("", ""))
    if package and find_spec(package) is None:
        raise MissingExtraError(f"export to {name}", options.to)


def _make(
    model: Model, options: ExportOptions, folder: Path, name: str, images: Sequence[npt.NDArray[np.uint8]]
) -> list[Path]:
    half = options.precision == "fp16"
    header = Header(model.config, options.precision, model.thresholds)
    if options.to == "tflite":
        from phidet.export.tflite_file import write_tflite  # noqa: PLC0415 - an extra of its own

        return write_tflite(model, header, folder / f"{name}.tflite", images)
    if _relates(model):
        graph = relations_onnx(model)
    # OpenVINO and 8-bit kernels run best with channels last; ONNX Runtime in floats has a blocked layout of its own.
    elif options.to == "openvino" or options.precision == "int8":
        graph = build_onnx(model, channels_last=True)
    else:
        graph = build_onnx_with_nms(model, half) if options.nms else build_onnx(model, half)
    if options.precision == "int8":
        graph = with_header(quantise(graph, model.config, images, options.to == "openvino"), header)
    if options.to == "openvino":
        from phidet.export.openvino_file import write_ir  # noqa: PLC0415 - an extra of its own

        return write_ir(graph, to_export_metadata(header, __version__), half, folder, name)
    path = folder / f"{name}.onnx"
    path.write_bytes(graph.SerializeToString())
    return [path]


def _compare(model: Model, path: Path, options: ExportOptions, images: Sequence[npt.NDArray[np.uint8]]) -> Agreement:
    if _relates(model):
        return compare_relations(model, path)
    # With NMS in the graph the outputs are final boxes, which are compared as such instead of raw outputs.
    if options.nms:
        return check_nms(model, path, images)
    return compare(model, open_network(path, _RUNTIME[options.to]), images)


def _relates(model: Model) -> bool:
    return "relations" in architecture_of(model.config).says


def _portrait() -> npt.NDArray[np.uint8]:
    """A photograph that is on every machine with the train extra: Grace Hopper, from matplotlib's sample data."""
    from matplotlib import get_data_path  # noqa: PLC0415 - slow to import

    return read_image(Path(get_data_path()) / "sample_data" / "grace_hopper.jpg")
