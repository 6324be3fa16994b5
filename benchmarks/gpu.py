"""An exported detector on an NVIDIA GPU: ONNX Runtime by CUDA and by TensorRT, PyTorch with and without a CUDA graph.

    python benchmarks/gpu.py runs/mine/best.onnx --weights runs/mine/best.safetensors

Needs ``pip install onnxruntime-gpu`` in place of ``onnxruntime``. Latency of one image and images a second in batches,
from an array in the computer's memory to arrays there, in turns, medians; and how far the logits are from those of the
processor, in units of their deviation. Says so and ends where no GPU is reached.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import phidet  # noqa: F401 - before ONNX Runtime, which reports its use otherwise
from phidet.inference.detector import Detector
from phidet.inference.runtimes.network import Network
from turns import Work, in_turns, report

GPU = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def networks(model: Path, weights: Path | None) -> dict[str, Network]:
    """What reaches the GPU here, by name."""
    found: dict[str, Network] = {}
    for device, provider in GPU.items():
        network = Detector(model, runtime="onnxruntime", device=device).network  # type: ignore[arg-type]
        if provider in network.session.get_providers():  # type: ignore[attr-defined]
            found[f"ONNX Runtime, {device}"] = network
    if weights is not None:
        import torch  # noqa: PLC0415

        from phidet.inference.runtimes.torch_runtime import TorchNetwork  # noqa: PLC0415
        from phidet.weights.native import load_model  # noqa: PLC0415

        if torch.cuda.is_available():
            found["PyTorch, CUDA graph"] = TorchNetwork(load_model(weights).cuda())
            eager = TorchNetwork(load_model(weights).cuda())
            eager._graph_for = lambda tensors: lambda inputs: eager.model(*inputs)  # type: ignore[method-assign,assignment,return-value]
            found["PyTorch, eager"] = eager
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an .onnx file of phidet export")
    parser.add_argument("--weights", type=Path, help="the .safetensors file that it was made of")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    on_gpu = networks(args.model, args.weights)
    if not on_gpu:
        print("no GPU is reached here: nothing to measure")
        return
    processor = Detector(args.model, runtime="onnxruntime").network
    size = processor.config.image_size_hw
    one = np.random.default_rng(0).normal(size=(1, 3, *size)).astype(np.float32)
    wanted = processor(one)
    for name, network in on_gpu.items():
        found = network(one)
        error = max(
            float(np.sqrt(np.mean((found[key].reshape(wanted[key].shape) - wanted[key]) ** 2)) / wanted[key].std())
            for key in wanted
            if key in found
        )
        print(f"{name:28} differs by {error:.1e} of the outputs' deviation")
    for batch in (1, args.batch):
        images = np.repeat(one, batch, 0)
        work: Work = {name: lambda network=network, images=images: network(images) for name, network in on_gpu.items()}  # type: ignore[misc]
        report(f"batch of {batch}", in_turns(work, args.runs, 2), "none: no figure without a GPU")


if __name__ == "__main__":
    main()
