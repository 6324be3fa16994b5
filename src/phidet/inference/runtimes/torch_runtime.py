"""Runs a ``.safetensors`` model in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.machine import usable_physical_cores
from phidet.detections.boxes import FloatArray
from phidet.inference.runtimes.network import Outputs
from phidet.weights.native import load_model


class TorchNetwork:
    """A model on its own device.

    Args:
        model: in any mode; switched to evaluation mode.
        folded: fold its constants first (:meth:`phidet.architectures.model.Model.optimize`), which is faster.
    """

    name = "torch"

    def __init__(self, model: Model, folded: bool = True) -> None:
        self.config, self.thresholds = model.config, model.thresholds
        self.architecture = architecture_of(model.config)
        self.device = next(model.parameters()).device
        self.model = model.optimize() if folded else model.eval()

    @torch.inference_mode()
    def __call__(self, images: FloatArray, valid_hw: npt.NDArray[np.int64] | None = None) -> Outputs:
        """Normalised images (B, 3, H, W) and, of networks that take it, what of them is image → raw outputs."""
        inputs = (images,) if valid_hw is None else (images, valid_hw)
        outputs = self.model(*(torch.from_numpy(array).to(self.device) for array in inputs))
        named = self.architecture.named_outputs(outputs)
        return {name: values.float().cpu().numpy() for name, values in named.items()}


def open_torch(path: Path, threads: int | None = None) -> TorchNetwork:
    """The model of a ``.safetensors`` file, on the CPU.

    Args:
        path: the file.
        threads: PyTorch's number of threads, a setting of the whole process; by default it stays as it is, unless
            it exceeds the number of cores that the process may use.

    Raises:
        CheckpointError: the file cannot be read.
    """
    model = load_model(path)
    torch.set_num_threads(threads or min(torch.get_num_threads(), usable_physical_cores()))
    return TorchNetwork(model)
