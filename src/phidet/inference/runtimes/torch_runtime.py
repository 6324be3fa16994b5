"""A ``.safetensors`` model behind the detector, in PyTorch."""

from __future__ import annotations

from pathlib import Path

import torch

from phidet.architectures.efficientdet.decode import NetworkOutputs, with_best
from phidet.architectures.efficientdet.network import EfficientDet
from phidet.core.errors import CheckpointError
from phidet.core.machine import usable_physical_cores
from phidet.detections.boxes import FloatArray
from phidet.weights.native import load_model


class TorchNetwork:
    """A model, folded (:class:`phidet.architectures.optimized.OptimizedDetector`), where it is."""

    name = "torch"

    def __init__(self, model: EfficientDet) -> None:
        self.config = model.config
        self.model = model.optimize()

    def __call__(self, images: FloatArray) -> NetworkOutputs:
        """Normalised images (B, 3, H, W) → raw outputs."""
        class_logits, box_deltas = self.model(torch.from_numpy(images).to(self.model.device))
        return with_best(class_logits.cpu().numpy(), box_deltas.cpu().numpy())


def open_torch(path: Path, threads: int | None = None) -> TorchNetwork:
    """The model of a ``.safetensors`` file, on the CPU.

    Args:
        path: the file.
        threads: PyTorch's number of threads, which is one for the whole process; left out, it stays as it is, unless
            that is more than there are cores that the process may use.

    Raises:
        CheckpointError: the file cannot be read, or holds a classifier.
    """
    model = load_model(path)
    if not isinstance(model, EfficientDet):
        raise CheckpointError(f"{path} is a classifier: a detector is needed")
    torch.set_num_threads(threads or min(torch.get_num_threads(), usable_physical_cores()))
    return TorchNetwork(model)
