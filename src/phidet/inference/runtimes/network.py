"""What every runtime looks like to the detector."""

from __future__ import annotations

from typing import Protocol

from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.decode import NetworkOutputs
from phidet.detections.boxes import FloatArray


class Network(Protocol):
    """A loaded network. Calls from several threads at once are allowed."""

    config: ModelConfig
    name: str

    def __call__(self, images: FloatArray) -> NetworkOutputs:
        """Normalised images (B, 3, H, W) at the config's size → raw outputs."""
        ...
