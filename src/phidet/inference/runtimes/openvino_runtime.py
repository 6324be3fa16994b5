"""Exported networks on OpenVINO's CPU plugin."""

from __future__ import annotations

from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from phidet.architectures.header import Header, exported_header
from phidet.core.errors import CheckpointError, ConfigError
from phidet.core.machine import usable_physical_cores
from phidet.detections.boxes import FloatArray
from phidet.inference.runtimes.forking import keep_in_forked_children
from phidet.inference.runtimes.network import Outputs, wanted_outputs
from phidet.inference.runtimes.options import Arithmetic, RunOptions

SECTION = "phidet"
"""Section of an IR's runtime information with phidet's header."""


class OpenVinoNetwork:
    """A network of an ``.xml`` or ``.onnx`` file that phidet exported. Arithmetic is fp32 unless asked for in bf16, or
    int8 if quantised.

    It runs one image at a time, whatever the batch: with a fixed batch the plugin copies fewer feature maps (D0 takes a
    sixth less time), and one image keeps all threads busy.

    Args:
        path: the file.
        threads: number of threads for one call; by default, one for each core that the process may use.
        at_once, arithmetic: see :class:`~phidet.inference.runtimes.options.RunOptions`.

    Raises:
        CheckpointError: the file cannot be read, or is not one of phidet's.
        ConfigError: bf16, which this machine's processor does not have.
    """

    name = "openvino"

    def __init__(
        self, path: Path, threads: int | None = None, at_once: int = 1, arithmetic: Arithmetic = "file"
    ) -> None:
        core = ov.Core()
        if arithmetic == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ConfigError("this machine's processor does not compute in bf16 (AVX512-BF16 or AMX): leave it out")
        # Left to itself, OpenVINO uses bf16 if the processor has it, and results depend on the machine.
        options: dict[str, object] = {"INFERENCE_PRECISION_HINT": "bf16" if arithmetic == "bf16" else "f32"}
        options["PERFORMANCE_HINT"] = "LATENCY" if at_once == 1 else "THROUGHPUT"
        if at_once > 1:
            options["NUM_STREAMS"] = at_once
        options["INFERENCE_NUM_THREADS"] = at_once * (threads or usable_physical_cores())
        try:
            model = core.read_model(path)
            header = _header(model, path)
            self.config, precision, self.thresholds = header
            self.precision = "bf16" if arithmetic == "bf16" else precision
            model.reshape(_input_shapes(header, model))
            self.compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise CheckpointError(f"{path} cannot be loaded: {str(error).strip().splitlines()[-1]}") from error
        names = {output.any_name for output in self.compiled.outputs}
        self.outputs = wanted_outputs(header, sorted(names), path)
        self._idle: SimpleQueue[ov.InferRequest] = SimpleQueue()
        keep_in_forked_children(self)

    def __call__(self, images: FloatArray, valid_hw: npt.NDArray[np.int64] | None = None) -> Outputs:
        """Normalised images (B, 3, H, W) → raw outputs; ``valid_hw`` is for files that have an input of that name."""
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self.compiled.create_infer_request()  # one for each concurrent call
        answers = []
        for i in range(len(images)):
            inputs: dict[str, npt.NDArray[Any]] = {"images": images[i : i + 1]}
            if valid_hw is not None:
                inputs["valid_hw"] = valid_hw[i : i + 1]
            request.infer(inputs, share_inputs=True)
            # Copied, since the request's buffers are overwritten by its next run.
            answers.append([request.get_tensor(name).data.copy() for name in self.outputs])
        self._idle.put(request)
        # A single image, the usual case, is not copied once more.
        stacked = [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*answers, strict=True)]
        return dict(zip(self.outputs, stacked, strict=True))


def open_openvino(path: Path, options: RunOptions) -> OpenVinoNetwork:
    """The network in ``path``; raises as :class:`OpenVinoNetwork`."""
    return OpenVinoNetwork(path, options.threads, options.at_once, options.arithmetic)


def _input_shapes(header: Header, model: ov.Model) -> dict[str, list[int]]:
    """One image; its size is left open where it varies from image to image."""
    varies = header.architecture.has_varying_size(header.config)
    shapes = {"images": [1, 3, *((-1, -1) if varies else header.config.image_size_hw)], "valid_hw": [1, 2]}
    return {name: shapes[name] for name in (node.any_name for node in model.inputs)}


def _header(model: ov.Model, path: Path) -> Header:
    if path.suffix == ".onnx":
        from phidet.inference.runtimes.onnx_runtime import read_header  # noqa: PLC0415 - OpenVINO hides an ONNX file's metadata

        return read_header(path)
    if not model.has_rt_info([SECTION]):
        return exported_header({}, path)
    section = model.get_rt_info([SECTION]).value
    return exported_header({key: str(getattr(value, "value", value)) for key, value in section.items()}, path)
