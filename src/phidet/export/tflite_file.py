"""A detector as a TensorFlow Lite file, through ``litert-torch``; images (1, H, W, 3), as such files have them."""

from __future__ import annotations

import json
import zipfile
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from phidet.architectures.header import Header, to_export_metadata
from phidet.architectures.model import Model
from phidet.architectures.optimized import OptimizedNetwork
from phidet.architectures.program import Transposed
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ExportError
from phidet.core.extras import __version__
from phidet.export.int8 import named_inputs
from phidet.export.quiet import quiet
from phidet.inference.runtimes.litert_runtime import HEADER_FILE, LABELS_FILE

_SIGNATURE = "serving_default"


def write_tflite(model: Model, header: Header, path: Path, images: Sequence[npt.NDArray[np.uint8]]) -> list[Path]:
    """Converts ``model`` and writes it to ``path``, in the precision of ``header``; int8 is calibrated on ``images``.

    Raises:
        ExportError: litert-torch cannot convert it, or its input varies in size.
    """
    if architecture_of(model.config).has_varying_size(model.config):
        raise ExportError(
            f"TensorFlow Lite files have one input size, and that of {model.config.name} varies: export it with "
            "--image-size"
        )
    program = architecture_of(model.config).lower(model)
    if program is not None and any(isinstance(operation, Transposed) for operation in program.operations):
        raise ExportError(
            f"{model.config.name} says the class of every pixel, which TensorFlow Lite computed otherwise than "
            "PyTorch: export it to ONNX or OpenVINO"
        )
    height, width = model.config.image_size_hw
    with quiet():
        import litert_torch  # noqa: PLC0415 - slow to import, and prints

        try:
            network = _ForLiteRt(model).eval()
            examples = {"images": torch.zeros(1, height, width, 3)}
            if network.architecture.takes_valid_hw:
                examples["valid_hw"] = torch.tensor([[height, width]])
            converted = litert_torch.convert(network, sample_kwargs=examples)
        except Exception as error:  # whatever it or MLIR raises
            raise ExportError(f"litert-torch cannot convert this model: {error}") from error
        converted.export(str(path))
        if header.precision != "fp32":
            _reduce(path, header, images)
    # TensorFlow Lite's metadata convention: a zip archive behind the flatbuffer, which readers of either ignore.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(HEADER_FILE, json.dumps(to_export_metadata(header, __version__)))
        archive.writestr(LABELS_FILE, "".join(f"{name}\n" for name in model.config.class_names))
    return [path]


class _ForLiteRt(nn.Module):
    """Channels last, outputs by name, and operations that litert-torch translates."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.architecture = architecture_of(model.config)
        program = self.architecture.lower(model)
        if program is None:
            # litert-torch takes weights that lie in memory as channels last for weights of another layout.
            self.network = model.optimize().to(memory_format=torch.contiguous_format)
        else:
            # A tuple with the names of the outputs takes the place of the network's own result type.
            self.network = _Functional(program, namedtuple("Outputs", program.outputs))

    def forward(self, images: Tensor, valid_hw: Tensor | None = None) -> dict[str, Tensor]:
        first = images.permute(0, 3, 1, 2)
        return self.architecture.named_outputs(self.network(*((first,) if valid_hw is None else (first, valid_hw))))


class _Functional(OptimizedNetwork[tuple[Tensor, ...]]):
    def upsample(self, x: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """By index where the factor is not whole: LiteRT's own resize rounds otherwise."""
        rows, columns = (torch.arange(n) * old // n for n, old in zip(size_hw, x.shape[-2:], strict=True))
        if any(n % old for n, old in zip(size_hw, x.shape[-2:], strict=True)):
            return x.index_select(2, rows).index_select(3, columns)
        return super().upsample(x, size_hw)

    def weighted_sum(self, xs: list[Tensor], factors: tuple[float, ...]) -> Tensor:
        """Without ``alpha``, which TensorFlow Lite has no counterpart for."""
        total = xs[0] if factors[0] == 1 else xs[0] * factors[0]
        for x, factor in zip(xs[1:], factors[1:], strict=True):
            total = total + (x if factor == 1 else x * factor)
        return total


def _reduce(path: Path, header: Header, images: Sequence[npt.NDArray[np.uint8]]) -> None:
    """Rewrites the file in fewer bits. In int8 the predictors stay in fp32, as in :mod:`phidet.export.int8`."""
    from ai_edge_quantizer import qtyping, quantizer  # noqa: PLC0415 - slow to import
    from ai_edge_quantizer.algorithm_manager import AlgorithmName  # noqa: PLC0415

    quantize = quantizer.Quantizer(str(path))
    if header.precision == "fp16":
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
        )
        for kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            quantize.update_quantization_recipe(
                ".*", qtyping.TFLOperationName[kind], config, AlgorithmName.FLOAT_CASTING
            )
        result = quantize.quantize(enable_progress_report=False)
    else:
        quantize.add_static_config(
            ".*", qtyping.TFLOperationName.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8
        )
        for kind in ("INPUT", "OUTPUT", "FULLY_CONNECTED"):
            quantize.update_quantization_recipe(".*", qtyping.TFLOperationName[kind], None, AlgorithmName.NO_QUANTIZE)
        # Static ranges: activations are quantised with what these images produce.
        samples = [_channels_last(inputs) for inputs in named_inputs(header.config, images)]
        ranges = quantize.calibrate({_SIGNATURE: samples}, num_threads=2)
        result = quantize.quantize(ranges, enable_progress_report=False)
    result.export_model(str(path), overwrite=True)


def _channels_last(inputs: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The inputs as the file takes them: images as (1, H, W, 3), sizes in 32 bits."""
    sizes = {name: values.astype(np.int32) for name, values in inputs.items() if name != "images"}
    return {"images": np.ascontiguousarray(inputs["images"].transpose(0, 2, 3, 1)), **sizes}
