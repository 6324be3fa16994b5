"""Exported generators on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from phidet.architectures.header import exported_header
from phidet.core.errors import CheckpointError
from phidet.detections.boxes import FloatArray
from phidet.inference.runtimes.onnx_runtime import open_session, session_options


class OnnxGenerator:
    """A generator's two files; see :class:`phidet.inference.generator.GeneratorNetwork`.

    Args:
        path: from w to images; the other file, from latents to w, lies beside it.
        threads: number of threads for one call; by default, one for each core that the process may use.

    Raises:
        CheckpointError: a file is missing or damaged, or is no generator's.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path = path
        self._synthesis = open_session(path, session_options(threads))
        header = exported_header(self._synthesis.get_modelmeta().custom_metadata_map, path)
        if "samples" not in header.architecture.says:
            raise CheckpointError(f"{path} holds {header.config.name}, which makes no images: expected a generator")
        self.config: Any = header.config
        beside = mapping_path(path)
        if not beside.is_file():
            raise CheckpointError(f"{beside} is missing: 'phidet export' writes the two files of a generator")
        self._mapping = open_session(beside, session_options(threads))
        other = exported_header(self._mapping.get_modelmeta().custom_metadata_map, beside)
        if other.config != self.config:
            raise CheckpointError(f"{beside} belongs to another generator than {path.name}: export both again")
        # The average is a constant of the graph, which gives it whatever it is asked.
        latents = np.zeros((1, self.config.latent_size), np.float32)
        labels = np.zeros((1, self.config.num_classes), np.float32) if self.config.labelled else None
        self.style_average: FloatArray = self._mapping.run(["style_average"], self._inputs(latents, labels))[0]

    def styles(self, latents: FloatArray, labels: FloatArray | None) -> FloatArray:
        """Latents (N, latent_size) and one-hot labels (N, classes) → w (N, num_layers, style_size)."""
        w = self._mapping.run(["styles"], self._inputs(latents, labels))[0]
        # The mapping gives one w, the same for all layers until styles are mixed.
        return np.repeat(np.asarray(w, np.float32)[:, None], self.config.num_layers, 1)

    def render(self, styles: FloatArray, noise: list[FloatArray] | None) -> FloatArray:
        """w and noise → images (N, 3, R, R), about −1 to 1."""
        inputs = {"styles": np.ascontiguousarray(styles, np.float32)}
        inputs |= {f"noise{i}": layer for i, layer in enumerate(noise or [])}
        return np.asarray(self._synthesis.run(["images"], inputs)[0], np.float32)

    def _inputs(self, latents: FloatArray, labels: FloatArray | None) -> dict[str, FloatArray]:
        inputs = {"latents": np.ascontiguousarray(latents, np.float32)}
        return inputs if labels is None else {**inputs, "labels": labels}


def mapping_path(path: Path) -> Path:
    """The file from latents to w that belongs to one from w to images."""
    return path.with_name(f"{path.stem}-mapping.onnx")
