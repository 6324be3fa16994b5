"""Detectors as the official Keras code (google/automl) saves them in ``.h5``.

Kernels are HWIO, depthwise kernels HWC1; every fusion weight is a scalar of its own. Keras repeats the first scope of
a name and appends ``:0``; files that came through TensorFlow 1 have ``/ExponentialMovingAverage`` after the
averaged weights.
"""

from __future__ import annotations

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.backbones.dialects import blocks_of
from phidet.architectures.backbones.published import published_name
from phidet.architectures.dialect import AVERAGE, Config, Dialect, Layout, Slot, having, parse
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.mask_config import ADDED

_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def _slot(name: str, config: Config) -> Slot | None:
    part, path = parse(name)
    if not isinstance(config, ModelConfig) or part in ADDED:
        return None
    if part == "backbone":
        return _backbone(path, config.backbone)
    if part == "feature_network":
        return _feature_network(path, config)
    kind = {"class_head": "class", "box_head": "box"}[part]
    if path[0] == "predict":
        return _separable(f"{kind}_net/{kind}-predict", path[1:])
    if path[0] == "convs":
        return _separable(f"{kind}_net/{kind}-{path[1]}", path[2:])
    # Heads share their convolutions between levels and have norms of their own for each.
    level = config.feature_network.min_level + int(path[2])
    return Slot((f"{kind}_net/{kind}-{path[1]}-bn-{level}/{_NORM[path[3]]}",))


def _backbone(path: list[str], config: BackboneConfig) -> Slot | None:
    # The scope is the name of the backbone, which only the published ones have.
    scope = published_name(config) if blocks_of(config) else None
    if scope is None:
        return None
    if path[0] == "stem":
        prefix = f"{scope}/stem"
        return _conv(f"{prefix}/conv2d", path[2]) if path[1] == "conv" else _norm(f"{prefix}/{_counted(0)}", path[2])
    prefix = f"{scope}/blocks_{path[1]}"
    if path[2] == "se":
        return _conv(f"{prefix}/se/{'conv2d' if path[3] == 'reduce' else 'conv2d_1'}", path[4])
    expands = blocks_of(config)[int(path[1])].expand != 1
    if path[3] == "bn":
        # Norms are numbered in the order in which a block uses them.
        order = ["expand", "depthwise", "project"] if expands else ["depthwise", "project"]
        return _norm(f"{prefix}/{_counted(order.index(path[2]))}", path[4])
    if path[2] == "depthwise":
        return Slot((f"{prefix}/depthwise_conv2d/depthwise_kernel",), "hwc1")
    # Keras numbers layers of a kind within a block, so the projection is the second convolution only after an
    # expansion.
    second = path[2] == "project" and expands
    return _conv(f"{prefix}/{'conv2d_1' if second else 'conv2d'}", path[4])


def _feature_network(path: list[str], config: ModelConfig) -> Slot:
    graph = config.feature_network.resolved_graph
    if path[0] == "coarser":
        return _projection("resample_p6", path[1:])
    node = int(path[3])
    prefix = f"fpn_cells/cell_{path[1]}/fnode{node}"
    # Maps are numbered across inputs and nodes, as in the official graph.
    index = len(graph.levels) + node
    inputs = graph.nodes[node].inputs
    if path[4] == "weights":
        return Slot(tuple(f"{prefix}/WSM{f'_{i}' if i else ''}" for i in range(len(inputs))), "scalars")
    if path[4] == "projections":
        return _projection(f"{prefix}/resample_{path[5]}_{inputs[int(path[5])]}_{index}", path[6:])
    if path[4] == "conv":
        return _separable(f"{prefix}/op_after_combine{index}/conv", path[5:])
    return _norm(f"{prefix}/op_after_combine{index}/bn", path[5])


def _counted(i: int) -> str:
    return f"tpu_batch_normalization{f'_{i}' if i else ''}"


def _norm(prefix: str, leaf: str) -> Slot:
    return Slot((f"{prefix}/{_NORM[leaf]}",))


def _conv(prefix: str, leaf: str) -> Slot:
    return Slot((f"{prefix}/kernel",), "hwio") if leaf == "weight" else Slot((f"{prefix}/bias",))


def _projection(prefix: str, path: list[str]) -> Slot:
    return _conv(f"{prefix}/conv2d", path[1]) if path[0] == "conv" else _norm(f"{prefix}/bn", path[1])


def _separable(prefix: str, path: list[str]) -> Slot:
    if path[1] == "bias":
        return Slot((f"{prefix}/bias",))
    layout: Layout = "hwc1" if path[0] == "depthwise" else "hwio"
    return Slot((f"{prefix}/{path[0]}_kernel",), layout)


def _canonical(key: str) -> str | None:
    scopes = key.removesuffix(":0").removesuffix(AVERAGE).split("/")
    # Keras repeats the first scope in files that it saves itself.
    if len(scopes) > 1 and scopes[0] == scopes[1]:
        scopes = scopes[1:]
    return None if scopes[0] in {"optimizer_weights", "top_level_model_weights"} else "/".join(scopes)


AUTOML = Dialect("automl", having("class_net/class-predict/pointwise_kernel"), _slot, _canonical, writable=False)
