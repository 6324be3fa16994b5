"""Exported networks on ONNX Runtime: on its CPU kernels, or on a GPU."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from phidet.architectures.header import Header, exported_header
from phidet.core.errors import CheckpointError
from phidet.core.files import cache_dir
from phidet.core.machine import usable_physical_cores
from phidet.detections.boxes import FloatArray
from phidet.inference.runtimes.forking import keep_in_forked_children
from phidet.inference.runtimes.network import Outputs, wanted_outputs
from phidet.inference.runtimes.options import Device, RunOptions

_CPU = "CPUExecutionProvider"
_PROVIDERS: dict[Device, tuple[str, ...]] = {
    "cpu": (_CPU,),
    "cuda": ("CUDAExecutionProvider", _CPU),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", _CPU),
}
log = logging.getLogger("phidet")


class OnnxNetwork:
    """A network of an ``.onnx`` file that phidet exported.

    Args:
        path: the file.
        threads: number of threads for one call; by default, one for each core that the process may use.
        device: "cuda" or "tensorrt" for a GPU; where ONNX Runtime does not reach one, a warning says so.

    Raises:
        CheckpointError: the file cannot be read, or is not one of phidet's.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None, device: Device = "cpu") -> None:
        self.path = path
        self.session = open_session(path, session_options(threads), providers_of(device))
        # ONNX Runtime falls back to the processor without a word.
        wanted, used = _PROVIDERS[device][0], self.session.get_providers()
        if wanted not in used:
            log.warning("ONNX Runtime does not reach %s here: %s runs on %s", device, path.name, used[0])
        keep_in_forked_children(self)
        metadata = self.session.get_modelmeta().custom_metadata_map
        header = exported_header(metadata, path)
        self.config, self.precision, self.thresholds = header
        self.outputs = wanted_outputs(header, [output.name for output in self.session.get_outputs()], path)
        batch = self.session.get_inputs()[0].shape[0]
        self.fixed_batch = batch if isinstance(batch, int) else None  # exported so for a device that needs it

    def __call__(self, images: FloatArray, valid_hw: npt.NDArray[np.int64] | None = None) -> Outputs:
        """Normalised images (B, 3, H, W) → raw outputs; in several runs where the file has a fixed batch.

        ``valid_hw`` is for files that have an input of that name.

        Raises:
            CheckpointError: ONNX Runtime fails, because the graph was edited or memory is short.
        """
        inputs: dict[str, npt.NDArray[Any]] = {"images": images}
        if valid_hw is not None:
            inputs["valid_hw"] = valid_hw
        size = self.fixed_batch
        if size is None or len(images) == size:
            return self._run(inputs)
        # The last run is filled up with the first image, whose outputs are cut off again.
        rows = np.arange(len(images) + -len(images) % size) % len(images)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        runs = [self._run({name: array[part] for name, array in inputs.items()}) for part in parts]
        return {name: np.concatenate([run[name] for run in runs])[: len(images)] for name in self.outputs}

    def _run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Outputs:
        try:
            return dict(zip(self.outputs, self.session.run(self.outputs, dict(inputs)), strict=True))
        except Exception as error:  # the classes differ from version to version
            raise CheckpointError(f"{self.path} cannot be run: {first_line(error)}") from error


def open_onnx(path: Path, options: RunOptions) -> OnnxNetwork:
    """The network in ``path``; raises as :class:`OnnxNetwork`."""
    return OnnxNetwork(path, options.threads, options.device)


def providers_of(device: Device) -> list[str | tuple[str, dict[str, str]]]:
    """ONNX Runtime's providers for ``device``, in the order in which it shall try them; only those that it has."""
    available = ort.get_available_providers()
    # Compiling takes TensorRT minutes, so what it makes of a file is kept, apart for each GPU and version by its own
    # naming.
    cache = str(cache_dir() / "tensorrt")
    settings: dict[str, dict[str, str]] = {
        "TensorrtExecutionProvider": {
            "trt_fp16_enable": "1",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": cache,
        },
        # The same convolutions come again and again: the fastest kernel is searched for once.
        "CUDAExecutionProvider": {"cudnn_conv_algo_search": "EXHAUSTIVE"},
    }
    return [(name, settings[name]) if name in settings else name for name in _PROVIDERS[device] if name in available]


def read_header(path: Path) -> Header:
    """The header of an ``.onnx`` file.

    Raises:
        CheckpointError: the file cannot be read, or is not one of phidet's.
    """
    options = session_options(1)
    # Only the metadata are needed, so the graph is not optimised.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return exported_header(open_session(path, options).get_modelmeta().custom_metadata_map, path)


def run_once(path: Path, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """All outputs of any ``.onnx`` file, by name.

    Raises:
        CheckpointError: the file cannot be read.
    """
    session = open_session(path, session_options(1))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def open_session(
    path: Path, options: ort.SessionOptions, providers: Sequence[str | tuple[str, dict[str, str]]] = (_CPU,)
) -> ort.InferenceSession:
    """A session on the first of the providers that works; unless given, on the processor.

    Raises:
        CheckpointError: the file cannot be loaded.
    """
    try:
        return ort.InferenceSession(path, options, providers=list(providers))
    except Exception as error:  # the classes differ from version to version
        raise CheckpointError(
            f"{path} cannot be loaded: {first_line(error)}. Copy it again, or export the model again"
        ) from error


def session_options(threads: int | None) -> ort.SessionOptions:
    """Session options for phidet's graphs; only errors of the runtime reach the terminal."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_physical_cores()
    options.log_severity_level = 3
    # Threads that keep spinning after a run slow the next session down: two used in turns take twice as long.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def first_line(error: Exception) -> str:
    """What ONNX Runtime says, without its numbers and the path, which the message has already."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : (Load model from .*? failed: ?)?", "", str(error).strip())
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
