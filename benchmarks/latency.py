"""Detection against effdet's, in one process and in turns: images to boxes, networks, post-processing, int8, eager.

    python benchmarks/latency.py                                             # D0 at 512 with COCO's 90 classes
    python benchmarks/latency.py --model efficientdet-lite0 --size 320

Both sides have the same weights, seeded. Absolute times are noise on a shared machine, so every pair runs in turns and
the medians' ratio counts; minima are what the machine can do undisturbed. With --threads 1 the times are the
processor's own, so that what else runs matters less still. effdet's side of "image to boxes" starts at
the prepared input, ours at the image.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import phidet  # before ONNX Runtime, which reports its use otherwise

# isort: split
import effdet
import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from phidet.architectures.header import Header
from phidet.architectures.model import Model
from phidet.architectures.prepared import Placement
from phidet.detections.boxes import pairwise_iou
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.export.int8 import quantise
from phidet.export.onnx_file import build_onnx, with_header
from phidet.images.prepare import prepare
from phidet.inference.detector import Detector
from phidet.inference.runtimes.onnx_runtime import OnnxNetwork, session_options
from phidet.inference.runtimes.openvino_runtime import OpenVinoNetwork
from turns import Work, in_turns, report

COCO = PostprocessSettings(score=0.0, multi_class=True)
"""What effdet's ``DetBenchPredict`` does: the best 5,000 pairs, hard suppression per class, 100 boxes."""


def effdet_model(name: str, size: int) -> nn.Module:
    """effdet's model with seeded weights, batch norms and fusion weights included, so that scores are spread."""
    torch.manual_seed(0)
    config = effdet.get_efficientdet_config("tf_" + name.replace("-", "_"))
    config.image_size = (size, size)
    model: nn.Module = effdet.EfficientDet(config, pretrained_backbone=False)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.weight.uniform_(0.5, 1)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        model.class_net.predict.conv_pw.weight.mul_(12)  # type: ignore[union-attr,operator]
    return model.eval()


def shift_scores(model: nn.Module, images: Tensor, objects: int = 200) -> None:
    """Moves effdet's class biases so that ``objects`` anchors pass the default threshold, as in a crowd."""
    with torch.no_grad():
        best = torch.cat([level.flatten(2).amax(1).flatten() for level in model(images)[0]])
        threshold = torch.logit(torch.tensor(PostprocessSettings().score))
        model.class_net.predict.conv_pw.bias += threshold - best.topk(objects).values[-1]  # type: ignore[union-attr,operator]


def same_in_phidet(name: str, size: int, model: nn.Module, folder: Path) -> Model:
    """phidet's model with the weights of effdet's."""
    torch.save(model.state_dict(), folder / "effdet.pth")
    return phidet.create_model(name, pretrained=folder / "effdet.pth", image_size=size).eval()


def effdet_onnx(model: nn.Module, size: int, path: Path) -> Path:
    """effdet's own export: its maps as they leave the network."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            classes, boxes = self.model(images)
            return (*classes, *boxes)

    # In evaluation mode itself: the exporter gives its model back in the mode that it came in, effdet's with it.
    torch.onnx.export(Flat().eval(), (torch.zeros(1, 3, size, size),), str(path), opset_version=17, dynamo=False)
    return path


def same_detections(theirs: Tensor, ours: Detections) -> str:
    """How many of effdet's boxes (N, 6) x1 y1 x2 y2 score class, classes from 1, are among ours."""
    overlaps = pairwise_iou(theirs[:, :4].numpy().astype(np.float32), ours.boxes_xyxy)
    overlaps[theirs[:, 5].long().numpy()[:, None] - 1 != ours.class_ids] = 0
    found = int((overlaps.max(1) > 0.99).sum())
    return f"{found} of effdet's {len(theirs)} boxes are among phidet's {len(ours)}"


def compare(name: str, size: int, runs: int, threads: int, folder: Path) -> None:
    """Prints everything."""
    theirs = effdet_model(name, size)
    config = phidet.create_model(name, image_size=size).config
    rng = np.random.default_rng(0)
    # As large as the input, so that both sides see the same pixels; blobs, as noise is no image.
    picture = rng.integers(0, 256, (size // 16, size // 16, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    photo = np.ascontiguousarray(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8))
    prepared = prepare(picture, config.image_size_hw, config.preprocess)[0][None]
    images = torch.from_numpy(prepared)
    shift_scores(theirs, images)
    ours = same_in_phidet(name, size, theirs, folder)
    config = ours.config  # with the anchors that effdet's weights are for

    files = {name: folder / f"{name}.onnx" for name in ("blocked", "last", "int8", "int8-openvino")}
    plain = build_onnx(ours, channels_last=True)
    onnx.save(build_onnx(ours), files["blocked"])
    onnx.save(plain, files["last"])
    for kind in ("int8", "int8-openvino"):
        int8 = quantise(plain, config, [picture, photo], for_openvino=kind != "int8")
        onnx.save(with_header(int8, Header(config, "int8")), files[kind])
    detector = Detector(files["blocked"], threads=threads)
    path = effdet_onnx(theirs, size, folder / "effdet.onnx")
    session = ort.InferenceSession(path, session_options(threads), providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: prepared}

    bench = effdet.DetBenchPredict(theirs)
    # With the image's size effdet clips boxes to it before suppression, as phidet does; without, never.
    info = {"img_scale": torch.ones(1), "img_size": torch.tensor([[size, size]])}
    with torch.inference_mode():
        print(same_detections(bench(images, info)[0], detector.detect([picture], COCO)[0]))
        work: Work = {
            "effdet DetBenchPredict, eager": lambda: bench(images, info),
            "phidet, the same detections": lambda: detector.detect([picture], COCO),
            "phidet, its defaults": lambda: detector.detect([picture]),
            "phidet, from 640×480": lambda: detector.detect([photo]),
        }
        report("picture array to boxes", in_turns(work, runs, threads), "4×")
        work = {"effdet, eager": lambda: theirs(images)}
        folded = ours.optimize()
        work |= {"phidet, eager": lambda: ours(images), "phidet, optimize()": lambda: folded(images)}
        report("PyTorch forward", in_turns(work, runs, threads), "1.3×")
    network = detector.network
    work = {
        "effdet's export": lambda: session.run(None, feed),
        "phidet's export": lambda: network(prepared),
    }
    report("network in ONNX Runtime", in_turns(work, 2 * runs, threads), "1.3×")
    int8_network = OnnxNetwork(files["int8"], threads)
    work = {"fp32": lambda: network(prepared), "int8": lambda: int8_network(prepared)}
    report("int8 in ONNX Runtime", in_turns(work, 2 * runs, threads), "1.5×")
    openvino = {kind: OpenVinoNetwork(files[kind], threads) for kind in ("last", "int8-openvino")}
    work = {"fp32": lambda: openvino["last"](prepared), "int8": lambda: openvino["int8-openvino"](prepared)}
    # Its threads are its own, so only the wall's clock sees them.
    report("int8 in OpenVINO", in_turns(work, 2 * runs, 2), "1.5×")

    outputs = {name: array[0] for name, array in network(prepared).items()}
    decode, placement = detector.architecture.decoder(config), Placement(1.0, config.image_size_hw)
    work = {
        "defaults": lambda: decode(outputs, placement, PostprocessSettings()),
        "5,000 pairs, suppressed per class": lambda: decode(outputs, placement, COCO),
    }
    title = f"post-processing of {config.num_anchors:,} anchors × {config.num_classes} classes"
    report(title, in_turns(work, 5 * runs, threads), "3 ms")


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientdet-d0")
    parser.add_argument("--size", type=int, default=512, help="input side in pixels (512)")
    parser.add_argument("--runs", type=int, default=15, help="interleaved runs (15)")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch and ONNX Runtime (2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    versions = f"torch {torch.__version__}, onnxruntime {ort.__version__}, effdet {version('effdet')}"
    print(f"{args.model} at {args.size}, {args.threads} threads, {versions}")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # effdet's and the exporter's
        compare(args.model, args.size, args.runs, args.threads, Path(folder))


if __name__ == "__main__":
    main()
