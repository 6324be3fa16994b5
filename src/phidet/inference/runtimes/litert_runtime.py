"""Exported networks on LiteRT (TensorFlow Lite), the runtime of phones and small boards."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from phidet.architectures.header import Header, exported_header
from phidet.core.errors import CheckpointError
from phidet.core.machine import usable_physical_cores
from phidet.detections.boxes import FloatArray
from phidet.inference.runtimes.network import Outputs
from phidet.inference.runtimes.options import RunOptions

HEADER_FILE, LABELS_FILE = "phidet.json", "labels.txt"
"""Files with phidet's header and the class names inside a model: TensorFlow Lite's associated files, which are a ZIP
archive appended to the model."""


class LiteRtNetwork:
    """A network of a ``.tflite`` file that phidet exported. It runs one image at a time, whatever the batch.

    Args:
        path: the file.
        threads: number of threads for one call; by default, one for each core that the process may use.

    Raises:
        CheckpointError: the file cannot be read, or is not one of phidet's.
    """

    name = "litert"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        header = _header(path)
        self.config, self.precision, self.thresholds = header
        self.outputs = list(header.architecture.output_shapes(header.config))
        self.path, self.threads = path, threads or usable_physical_cores()
        self._idle: SimpleQueue[Any] = SimpleQueue()
        self._idle.put(self._runner())

    def __call__(self, images: FloatArray, valid_hw: npt.NDArray[np.int64] | None = None) -> Outputs:
        """Normalised images (B, 3, H, W) → raw outputs; ``valid_hw`` is for files that have an input of that name."""
        try:
            runner = self._idle.get_nowait()
        except Empty:
            runner = self._runner()  # interpreters are not thread-safe: one for each concurrent call
        # One by one: the file's input has a fixed size of one image.
        answers = []
        for i, image in enumerate(images):
            inputs: dict[str, npt.NDArray[Any]] = {"images": np.ascontiguousarray(image.transpose(1, 2, 0))[None]}
            if valid_hw is not None:
                inputs["valid_hw"] = valid_hw[i : i + 1].astype(np.int32)  # the only whole numbers there
            answers.append(runner(**inputs))
        self._idle.put(runner)
        return {name: np.concatenate([answer[name] for answer in answers]) for name in self.outputs}

    def _runner(self) -> Any:
        try:
            interpreter = Interpreter(str(self.path), num_threads=self.threads)
            return interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.path} cannot be loaded: {str(error).strip().splitlines()[0]}") from error


def open_litert(path: Path, options: RunOptions) -> LiteRtNetwork:
    """The network in ``path``; raises as :class:`LiteRtNetwork`."""
    return LiteRtNetwork(path, options.threads)


def _header(path: Path) -> Header:
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = json.loads(archive.read(HEADER_FILE))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    # A file without the archive is another tool's, and is refused as one without a header.
    except (zipfile.BadZipFile, KeyError, ValueError):
        metadata = {}
    return exported_header(metadata if isinstance(metadata, dict) else {}, path)
