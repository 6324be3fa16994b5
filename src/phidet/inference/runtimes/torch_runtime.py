"""Runs a ``.safetensors`` model in PyTorch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.machine import usable_physical_cores
from phidet.detections.boxes import FloatArray
from phidet.inference.runtimes.network import Outputs
from phidet.inference.runtimes.options import RunOptions
from phidet.weights.native import load_model

MOST_GRAPHS = 8
"""Shapes of inputs for which recorded graphs are kept, each with the memory of all its maps."""
log = logging.getLogger("phidet")


class TorchNetwork:
    """A model on its own device.

    Args:
        model: in any mode; switched to evaluation mode.
        folded: fold its constants first (:meth:`phidet.architectures.model.Model.optimize`), which is faster.
    """

    name = "torch"

    def __init__(self, model: Model, folded: bool = True) -> None:
        self._graphs: dict[tuple[tuple[int, ...], ...], CudaGraph] = {}
        self._lock = threading.Lock()
        self.config, self.thresholds = model.config, model.thresholds
        self.architecture = architecture_of(model.config)
        self.device = next(model.parameters()).device
        self.model = model.optimize() if folded else model.eval()

    @torch.inference_mode()
    def __call__(self, images: FloatArray, valid_hw: npt.NDArray[np.int64] | None = None) -> Outputs:
        """Normalised images (B, 3, H, W) and, of networks that take it, what of them is image → raw outputs."""
        inputs = (images,) if valid_hw is None else (images, valid_hw)
        tensors = [torch.from_numpy(array).to(self.device) for array in inputs]
        if self.device.type != "cuda":
            return self._named(self.model(*tensors))
        # A graph's inputs and outputs are fixed places in memory: one call at a time, until its answer is copied.
        with self._lock:
            return self._named(self._graph_for(tensors)(tensors))

    def _named(self, outputs: Any) -> Outputs:
        return in_memory(self.architecture.named_outputs(outputs))

    def _graph_for(self, tensors: list[Tensor]) -> CudaGraph:
        """The graph for inputs of these shapes, recorded at the first of them; the oldest of several makes room."""
        key = tuple(tuple(tensor.shape) for tensor in tensors)
        if key not in self._graphs:
            # Dictionaries keep the order in which they were filled.
            while len(self._graphs) >= MOST_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[key] = CudaGraph(self.model, tensors)
        return self._graphs[key]


def in_memory(outputs: Mapping[str, Tensor]) -> Outputs:
    """Outputs of a network as float32 arrays in the computer's memory.

    From a GPU they go into pages that stay where they are: it writes those itself, without a copy through the driver's
    own, and all of them in one go. Of 16 images a detector's logits are hundreds of megabytes. PyTorch keeps such pages
    for the next call when the arrays are gone.
    """
    singles = {name: values.float() for name, values in outputs.items()}
    on_gpu = next((values.device for values in singles.values() if values.is_cuda), None)
    if on_gpu is None:
        return {name: values.cpu().numpy() for name, values in singles.items()}
    arrays = {}
    for name, values in singles.items():
        place = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        arrays[name] = place.copy_(values, non_blocking=True).numpy()
    torch.cuda.current_stream(on_gpu).synchronize()
    return arrays


class CudaGraph:
    """The kernels of a network for inputs of one shape, recorded once and started by one call.

    A detector has hundreds of small kernels; starting them one by one takes a CPU longer than a GPU computes.

    Args:
        model: on a GPU, in evaluation mode.
        inputs: of the shapes that it is recorded for.
    """

    def __init__(self, model: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        # As PyTorch's documentation asks: some runs on another stream first, so that what is allocated once and what is
        # searched for is not recorded.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                model(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = model(*self._inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> Any:
        """The network's outputs, in memory that the next call overwrites."""
        for place, tensor in zip(self._inputs, inputs, strict=True):
            place.copy_(tensor)
        self._graph.replay()
        return self._outputs


def open_torch(path: Path, options: RunOptions) -> TorchNetwork:
    """The model of a ``.safetensors`` file, on the device of ``options``.

    Args:
        path: the file.
        options: how to run it. The number of threads is a setting of the whole process; by default it stays as it is,
            unless it exceeds the number of cores that the process may use.

    Raises:
        CheckpointError: the file cannot be read.
    """
    model = load_model(path)
    torch.set_num_threads(options.threads or min(torch.get_num_threads(), usable_physical_cores()))
    if options.device != "cpu":
        if torch.cuda.is_available():
            model = model.cuda()
        else:
            log.warning("PyTorch does not reach a GPU here: %s runs on the CPU", path.name)
    return TorchNetwork(model)
