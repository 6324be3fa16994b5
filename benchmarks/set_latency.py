"""A set predictor against the EfficientDet on the same backbone and input size, in one process and in turns.

    python benchmarks/set_latency.py                       # setdet-lite0 against efficientdet-lite0 at 320
    python benchmarks/set_latency.py --phi 2 --threads 2
    python benchmarks/set_latency.py --profile             # moreover, where its time goes

Times do not depend on the weights, except for what is found: both sides have random ones, and EfficientDet's scores are
moved so that 30 anchors pass the threshold, the set predictor's so that 30 queries do. Times and turns as in
``latency.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import Counter
from pathlib import Path

import phidet  # before ONNX Runtime, which reports its use otherwise

# isort: split
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import Tensor, nn

from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.detections.settings import PostprocessSettings
from phidet.export.onnx_file import build_onnx
from phidet.inference.detector import Detector
from phidet.inference.runtimes.onnx_runtime import OnnxNetwork, session_options
from turns import in_turns, report

OBJECTS = 30


def some_model(name: str, size: int | None, classes: int) -> Model:
    """Random weights, statistics included, so that answers differ from place to place."""
    torch.manual_seed(0)
    model = phidet.create_model(name, num_classes=classes, image_size=size).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 1.5)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0, module.in_features**-0.5)
    return model


def shift_scores(model: Model, predictor: nn.Module, images: Tensor) -> None:
    """Moves the biases of the class predictor so that :data:`OBJECTS` answers pass the default threshold."""
    with torch.no_grad():
        logits = architecture_of(model.config).named_outputs(model(images))["class_logits"]
        best = logits.amax(2).flatten().topk(OBJECTS).values[-1]
        assert isinstance(predictor.bias, nn.Parameter)
        predictor.bias.data += torch.logit(torch.tensor(PostprocessSettings().score)) - best


def compare(phi: int, runs: int, threads: int, classes: int, folder: Path) -> Path:
    """Prints the times of the networks, and from image to boxes; returns the set predictor's file."""
    predictor = some_model(f"setdet-lite{phi}", None, classes)
    size = predictor.config.image_size_hw[0]
    anchors = some_model(f"efficientdet-lite{phi}", size, classes)
    photo: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    prepared = architecture_of(predictor.config).prepare(predictor.config, photo).image[None]
    shift_scores(anchors, anchors.get_submodule("class_head.predict.pointwise"), torch.from_numpy(prepared))
    last = f"decoder.classes.{predictor.config.decoder.layers - 1}"
    shift_scores(predictor, predictor.get_submodule(last), torch.from_numpy(prepared))
    files = {"EfficientDet": folder / "anchors.onnx", "set predictor": folder / "set.onnx"}
    for path, model in zip(files.values(), (anchors, predictor), strict=True):
        path.write_bytes(build_onnx(model).SerializeToString())
    networks = {name: OnnxNetwork(path, threads) for name, path in files.items()}
    detectors = {name: Detector(path, threads=threads) for name, path in files.items()}
    print(f"lite{phi} at {size}: " + ", ".join(f"{name} finds {len(of(photo))}" for name, of in detectors.items()))
    work = {name: (lambda network=network: network(prepared)) for name, network in networks.items()}
    report("network in ONNX Runtime", times := in_turns(work, 4 * runs, threads), "set predictor at most 1.4 times")
    _say_ratio(times)
    work = {name: (lambda detector=detector: detector.detect([photo])) for name, detector in detectors.items()}
    report("640×480 image to boxes", times := in_turns(work, 4 * runs, threads), "set predictor at most 1.4 times")
    _say_ratio(times)
    return files["set predictor"]


def _say_ratio(times: dict[str, list[float]]) -> None:
    (anchors, sets) = times.values()
    print(f"  set predictor / EfficientDet: {statistics.median(sets) / statistics.median(anchors):.2f} by medians")


def profile(path: Path, runs: int, threads: int) -> None:
    """Prints the operations that take the most of the network's time."""
    options = session_options(threads)
    options.enable_profiling, options.profile_file_prefix = True, str(path.with_suffix(""))
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    for _ in range(runs):
        session.run(None, {"images": np.zeros((1, *shape[1:]), np.float32)})
    taken: Counter[str] = Counter()
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[event["args"]["op_name"]] += event["dur"]
    print("\nshare of the set predictor's time by operation")
    for kind, microseconds in taken.most_common(8):
        print(f"  {kind:20} {100 * microseconds / taken.total():5.1f} %")


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phi", type=int, default=0, choices=range(5))
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--runs", type=int, default=10, help="interleaved turns (10)")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime (1)")
    parser.add_argument("--profile", action="store_true", help="also the operations that take the most time")
    args = parser.parse_args()
    print(f"onnxruntime {ort.__version__}, {args.threads} threads, {args.classes} classes")
    with tempfile.TemporaryDirectory() as folder:
        path = compare(args.phi, args.runs, args.threads, args.classes, Path(folder))
        if args.profile:
            profile(path, args.runs, args.threads)


if __name__ == "__main__":
    main()
