"""The generator as ONNX nodes, in two graphs: from latents to w, and from w and noise to images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phidet.architectures.program import GraphWriter
from phidet.architectures.stylegan.layers import Convolution, ConvolutionUp, Dense, Equalised, widened
from phidet.architectures.stylegan.synthesis import Layer

if TYPE_CHECKING:
    from phidet.architectures.stylegan.generator import Generator

_EPSILON = 1e-8


def write_mapping(g: GraphWriter, model: Generator) -> str:
    """From "latents" (N, latent_size), and "labels" (N, classes) where the network takes them, to w (N, style_size)."""
    x, mapping = "latents", model.mapping
    if mapping.label is not None:
        label = g.add("MatMul", ["labels", g.constant(mapping.label.detach().cpu().numpy())])
        x = g.add("Concat", [x, label], axis=1)
    x = _pixel_norm(g, x)
    for layer in mapping.layers:
        assert isinstance(layer, Dense)
        x = g.add("LeakyRelu", [_dense(g, x, layer)], alpha=0.2)
    return x


def write_synthesis(g: GraphWriter, model: Generator) -> str:
    """From "styles" (N, num_layers, style_size) and the noise of each layer, "noise0" and on, to images."""
    network = model.synthesis
    styles = [_style(g, i) for i in range(model.config.num_layers)]
    if network.constant is not None:
        # A zero of the batch's size makes the constant one for each image.
        count = g.add("Shape", ["styles"], start=0, end=1)
        shape = g.add("Concat", [count, g.constant(network.constant.shape[1:], np.int64)], axis=0)
        x = g.add("Expand", [g.constant(network.constant.detach().cpu().numpy()), shape])
    else:
        assert network.dense is not None
        channels = model.config.channels(4)
        x = g.add("Reshape", [_dense(g, styles[0], network.dense), g.constant([-1, channels, 4, 4], np.int64)])
    for i, layer in enumerate(network.layers):
        assert isinstance(layer, Layer)
        x = _layer(g, x, layer, styles[i], f"noise{i}")
    last = network.to_rgb[-1]
    assert isinstance(last, Convolution)
    return _convolution(g, x, last)


def _style(g: GraphWriter, layer: int) -> str:
    return g.add("Gather", ["styles", g.constant(layer, np.int64)], axis=1)


def _layer(g: GraphWriter, x: str, layer: Layer, style: str, noise: str) -> str:
    channels = len(layer.bias)
    if isinstance(layer.convolution, ConvolutionUp):
        x = _convolution_up(g, x, layer.convolution)
    elif isinstance(layer.convolution, Convolution):
        x = _convolution(g, x, layer.convolution)
    if layer.blurred:
        line = np.array([1, 2, 1]) / 4
        kernel = g.constant(np.tile(line[:, None] * line, (channels, 1, 1, 1)))
        x = g.add("Conv", [x, kernel], group=channels, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    if layer.noise_strength is not None:
        strength = g.constant(layer.noise_strength.detach().cpu().numpy().reshape(1, -1, 1, 1))
        x = g.add("Add", [x, g.add("Mul", [noise, strength])])
    x = g.add("Add", [x, g.constant(layer.bias.detach().cpu().numpy().reshape(1, -1, 1, 1))])
    x = g.add("LeakyRelu", [x], alpha=0.2)
    if layer.style is None:
        return _pixel_norm(g, x)
    # Not InstanceNormalization: its ε is added in single precision by some runtimes before the square root is taken.
    mean = g.add("ReduceMean", [x], axes=[2, 3], keepdims=1)
    x = g.add("Sub", [x, mean])
    x = _divided(g, x, [2, 3])
    both = g.add("Reshape", [_dense(g, style, layer.style), g.constant([-1, 2 * channels, 1, 1], np.int64)])
    starts, axis = [g.constant([i * channels], np.int64) for i in range(3)], g.constant([1], np.int64)
    scale, shift = (g.add("Slice", [both, starts[i], starts[i + 1], axis]) for i in range(2))
    return g.add("Add", [g.add("Mul", [x, g.add("Add", [scale, g.constant(1.0)])]), shift])


def _convolution(g: GraphWriter, x: str, layer: Convolution) -> str:
    side = layer.weight.shape[-1]
    return g.add("Conv", [x, *_weights(g, layer)], kernel_shape=[side, side], pads=[side // 2] * 4)


def _convolution_up(g: GraphWriter, x: str, layer: ConvolutionUp) -> str:
    if layer.fused:
        kernel = widened(layer.scaled_weight).transpose(0, 1).detach().cpu().numpy()
        inputs = [x, g.constant(kernel)]
        return g.add("ConvTranspose", inputs, kernel_shape=[4, 4], strides=[2, 2], pads=[1, 1, 1, 1])
    scales = g.constant([1, 1, 2, 2])
    x = g.add(
        "Resize", [x, "", scales], mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
    )
    return g.add("Conv", [x, *_weights(g, layer)], kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def _dense(g: GraphWriter, x: str, layer: Dense) -> str:
    return g.add("Gemm", [x, *_weights(g, layer)], transB=1)


def _weights(g: GraphWriter, layer: Equalised) -> list[str]:
    """The weight of a layer, and its bias where it has one, as they are used."""
    used = (layer.scaled_weight, layer.scaled_bias)
    return [g.constant(tensor.detach().cpu().numpy()) for tensor in used if tensor is not None]


def _pixel_norm(g: GraphWriter, x: str) -> str:
    return _divided(g, x, [1])


def _divided(g: GraphWriter, x: str, axes: list[int]) -> str:
    """x over its root mean square along ``axes``."""
    square = g.add("ReduceMean", [g.add("Mul", [x, x])], axes=axes, keepdims=1)
    return g.add("Div", [x, g.add("Sqrt", [g.add("Add", [square, g.constant(_EPSILON)])])])
