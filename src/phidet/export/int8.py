"""Post-training quantisation: weights and maps in 8 bits, with ranges measured on the user's images.

ONNX Runtime computes in 8 bits from one convolution to the next, activations included, so every map is rounded.
OpenVINO appends activations and sums to its convolutions in fp32 and rounds what the next one reads, so only that is
marked.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from phidet.architectures.base import NetworkConfig
from phidet.architectures.prepared import INPUT_NAMES
from phidet.architectures.registry import architecture_of
from phidet.core.errors import InputError
from phidet.core.numbers import evenly_spaced
from phidet.data.dataset import Dataset
from phidet.export.onnx_graph import OWN
from phidet.export.quiet import quiet

CALIBRATION_IMAGES = 64
"""Enough for ranges of maps; more change them by less than their rounding."""
FLOAT_OPERATIONS = ("MatMul", "ReduceMax", "Transpose", "Reshape", "Concat")
"""In ONNX Runtime the predictors, and what makes a network's outputs, stay in fp32: logits span some 20 units, and
rounding them to 8 bits, in steps of 1/10, changes scores by several percentage points."""

log = logging.getLogger("phidet")


def calibration_images(dataset: Dataset) -> list[npt.NDArray[np.uint8]]:
    """Images spread evenly over ``dataset``, decoded; those that cannot be decoded are left out.

    Raises:
        InputError: none can be decoded.
    """
    images: list[npt.NDArray[np.uint8]] = []
    for index in evenly_spaced(len(dataset), CALIBRATION_IMAGES):
        try:
            images.append(dataset.image(index))
        except InputError as error:
            log.warning("left out: %s", error)
    if not images:
        raise InputError(f"no image of {dataset.name!r} can be decoded: run 'phidet doctor' on the data")
    return images


def quantise(
    model: onnx.ModelProto, config: NetworkConfig, images: Sequence[npt.NDArray[np.uint8]], for_openvino: bool = False
) -> onnx.ModelProto:
    """``model``, in fp32 and channels last, with 8-bit convolutions: weights by channel, maps by their range on
    ``images``.
    """
    results = architecture_of(config).output_shapes(config)
    # The nodes that produce the outputs stay in fp32, too: their rounding would go straight into scores and boxes. So
    # does what an architecture writes by itself: coordinates and attention, which 8 bits are too coarse for.
    own = [n.name for n in model.graph.node if n.name.startswith(OWN)]
    skipped = [n.name for n in model.graph.node if n.op_type in FLOAT_OPERATIONS or n.output[0] in results]
    # For OpenVINO only: all that it computes in 8 bits.
    products = ["Conv", "MatMul"]
    inputs_only = {
        "OpTypesToExcludeOutputQuantization": products,
        # OpenVINO's products take no zero point of their left side.
        "TensorQuantOverrides": {
            node.input[0]: [{"quant_type": QuantType.QInt8, "symmetric": True}]
            for node in model.graph.node
            if node.op_type == "MatMul" and node.name not in own
        },
    }
    # quantize_static works on files only.
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        with quiet():  # warnings about a preprocessing that this graph does not need
            quantize_static(
                source,
                target,
                _Images(named_inputs(config, images)),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=products if for_openvino else None,
                nodes_to_exclude=own if for_openvino else [*skipped, *own],
                extra_options=inputs_only if for_openvino else {},
                calibrate_method=CalibrationMethod.MinMax,
            )
        return onnx.load(target)


def runtime_advice(path: Path) -> str:
    """Which runtime an int8 ``.onnx`` file is better made for; "" where ONNX Runtime gains by it."""
    kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
    # SiLU is a sigmoid and a product after nearly every convolution, and each of them is rounded by itself.
    if 4 * kinds["Sigmoid"] < kinds["Conv"]:
        return ""
    return "in ONNX Runtime int8 gains little for SiLU networks, or loses: take '--to openvino --int8' for them"


def named_inputs(
    config: NetworkConfig, images: Sequence[npt.NDArray[np.uint8]]
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """What a network takes of each image, by the names of its inputs."""
    architecture = architecture_of(config)
    for image in images:
        inputs = architecture.network_inputs([architecture.prepare(config, image)])
        yield dict(zip(INPUT_NAMES, inputs, strict=False))


class _Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Feeds prepared images one by one; all of them at once could fill the memory."""

    def __init__(self, inputs: Iterator[dict[str, npt.NDArray[Any]]]) -> None:
        self._inputs = inputs

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        return next(self._inputs, None)
