"""A generator as two ONNX files: from latents to w, and from w to images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from phidet.architectures.adversarial import GeneratorModel
from phidet.architectures.header import Header
from phidet.core.errors import ExportError
from phidet.core.files import raising_write_errors
from phidet.export.onnx_file import finish
from phidet.export.onnx_graph import BATCH, SMALL, Graph, floats
from phidet.export.place import folder_beside, put_in_place
from phidet.inference.generator import ImageGenerator
from phidet.inference.runtimes.onnx_generator import OnnxGenerator, mapping_path
from phidet.inference.runtimes.torch_generator import TorchGenerator

CHECKED = 4
"""Images that are compared with PyTorch's."""
TOLERANCE = 2
"""Grey levels by which an image may differ: rounding of sums that were made in another order."""
_NOISE = "noise_batch"


class GeneratorExport(NamedTuple):
    """What was written, and by how many grey levels its images differ from PyTorch's at most."""

    paths: list[Path]
    difference: int


def export_generator(model: Any, target: Path, half: bool = False) -> GeneratorExport:
    """Writes ``target``, from w to images, and beside it ``…-mapping.onnx``, from latents to w.

    The noise of each layer is an input that may be left out; then it is the one that is kept with the weights.

    Args:
        model: a generator's model.
        target: ending in .onnx.
        half: weights in 16 bits, arithmetic in 32.

    Raises:
        ExportError: the files' images differ from PyTorch's, or cannot be written; what was there stays.
    """
    model = copy.deepcopy(model).cpu().eval()  # the caller's model keeps its device and mode
    network = cast("GeneratorModel", model)
    with folder_beside(target) as folder:
        made = [folder / target.name, mapping_path(folder / target.name)]
        for path, graph in zip(made, (_synthesis(network, half), _mapping(network, half)), strict=True):
            with raising_write_errors(target, ExportError):
                path.write_bytes(graph.SerializeToString())
        ours, theirs = ImageGenerator(TorchGenerator(model)), ImageGenerator(OnnxGenerator(made[0]))
        # As many classes as there are images to compare: each has weights of its own.
        class_ids = np.arange(CHECKED) % network.config.num_classes
        pairs = [generator.sample(CHECKED, 0, class_ids).astype(np.int16) for generator in (ours, theirs)]
        difference = int(np.abs(pairs[0] - pairs[1]).max())
        if difference > (8 if half else TOLERANCE):
            raise ExportError(
                f"images of {target} differ from PyTorch's by up to {difference} grey levels: not written"
            )
        return GeneratorExport(put_in_place(made, target.parent), difference)


def _mapping(model: GeneratorModel, half: bool) -> onnx.ModelProto:
    config = model.config
    graph = _Weights(half)
    styles = model.write_mapping(graph)
    average = model.style_average.detach().cpu().numpy()
    # Gives the output its name, whatever the network's last node is called.
    graph.nodes.append(helper.make_node("Identity", [styles], ["styles"]))
    graph.nodes.append(helper.make_node("Identity", [graph.constant(average)], ["style_average"]))
    graph.inputs.append(floats("latents", [BATCH, config.latent_size]))
    if config.labelled:
        graph.inputs.append(floats("labels", [BATCH, config.num_classes]))
    outputs = [floats("styles", [BATCH, len(average)]), floats("style_average", [len(average)])]
    return finish(graph, Header(config, "fp16" if half else "fp32"), outputs)


def _synthesis(model: GeneratorModel, half: bool) -> onnx.ModelProto:
    config = model.config
    graph = _Weights(half)
    images = model.write_synthesis(graph)
    graph.nodes.append(helper.make_node("Identity", [images], ["images"]))
    size = model.style_average.shape[0]
    graph.inputs.append(floats("styles", [BATCH, config.num_layers, size]))
    for i, (side, noise) in enumerate(zip(config.noise_sides, model.stored_noise(), strict=True)):
        # An input that has a value in the file may be left out.
        graph.inputs.append(floats(f"noise{i}", [_NOISE, 1, side, side]))
        graph.constants[f"noise{i}"] = numpy_helper.from_array(noise.cpu().numpy(), f"noise{i}")
    outputs = [floats("images", [BATCH, 3, *config.image_size_hw])]
    return finish(graph, Header(config, "fp16" if half else "fp32"), outputs)


class _Weights(Graph):
    """A graph that keeps large constants in 16 bits, where that is asked for."""

    def constant(self, values: Any, dtype: type[np.generic] = np.float32) -> str:
        array = np.asarray(values, dtype)
        if not self.half or dtype is not np.float32 or array.size < SMALL:
            return super().constant(values, dtype)
        name = super().constant(array.astype(np.float16), np.float16)
        return self.add("Cast", [name], to=TensorProto.FLOAT)
