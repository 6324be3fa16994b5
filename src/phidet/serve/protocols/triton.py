"""Triton's extensions of the Open Inference Protocol that its clients and perf_analyzer use: configuration, statistics.

The paths are ``/v2/models/M[/versions/V]/config``, ``/v2/models/M[/versions/V]/stats`` and ``/v2/models/stats``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from phidet.serve.configuration import ServerSettings, Source
from phidet.serve.inputs import ENCODED, TENSOR
from phidet.serve.models.statistics import Duration
from phidet.serve.models.versions import LoadedVersion
from phidet.serve.outputs import output_shapes

EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")
"""The extensions that ``/v2`` announces."""


class _BatchStatistics(msgspec.Struct):
    batch_size: int
    compute_infer: Duration
    compute_input: Duration = msgspec.field(default_factory=Duration)  # of requests, not of batches
    compute_output: Duration = msgspec.field(default_factory=Duration)


def model_config(loaded: LoadedVersion, source: Source, settings: ServerSettings) -> dict[str, Any]:
    """A model's configuration in the form of Triton's ``config.pbtxt``; sizes leave out the batch, as there.

    Both inputs are optional, because a request has one of them. ``reshape`` is for tensors with the batch as their only
    dimension, which the format cannot write otherwise.
    """
    batching = settings.batching
    shapes = output_shapes(loaded.model.max_detections, loaded.model.finds)
    tensors = {name: list(shape) for name, shape in shapes.items()}
    parameters = {
        "class_names": msgspec.json.encode(loaded.model.class_names).decode(),
        "image_size_hw": msgspec.json.encode(loaded.model.image_size_hw).decode(),
    }
    return {
        "name": loaded.name,
        "platform": "",
        "backend": f"phidet_{loaded.model.runtime_name}",
        "version_policy": _version_policy(source),
        "max_batch_size": min(settings.limits.instances, batching.capacity),
        "input": [
            _tensor(ENCODED, "TYPE_STRING", [1]) | {"optional": True},
            _tensor(TENSOR, "TYPE_UINT8", [-1, -1, 3]) | {"optional": True},
        ],
        "output": [_tensor(name, "TYPE_FP32", shape) for name, shape in tensors.items()],
        "instance_group": [{"name": loaded.name, "kind": "KIND_CPU", "count": batching.num_batch_threads}],
        "dynamic_batching": {
            "preferred_batch_size": [batching.max_batch_size],
            "max_queue_delay_microseconds": batching.batch_timeout_micros,
        },
        "parameters": {name: {"string_value": text} for name, text in parameters.items()},
        "model_transaction_policy": {"decoupled": False},
    }


def model_statistics(loaded: LoadedVersion) -> dict[str, Any]:
    """Statistics of a version since it was loaded. There is no cache, so its hits and misses are 0."""
    statistics = loaded.batcher.statistics
    calls = sorted(statistics.batches.items())
    return {
        "name": loaded.name,
        "version": str(loaded.version),
        "last_inference": statistics.last_inference,
        "inference_count": statistics.images,
        "execution_count": sum(duration.count for _, duration in calls),
        "inference_stats": {
            **statistics.requests,
            "fail": statistics.fail,
            "cache_hit": Duration(),
            "cache_miss": Duration(),
        },
        "batch_stats": [_BatchStatistics(size, duration) for size, duration in calls],
        "memory_usage": [],
    }


def _tensor(name: str, data_type: str, dims: list[int]) -> dict[str, Any]:
    # The format has no empty shape: a scalar per image is [1], reshaped to [].
    tensor = {"name": name, "data_type": data_type, "dims": dims or [1]}
    return tensor if dims else tensor | {"reshape": {"shape": []}}


def _version_policy(source: Source) -> dict[str, Any]:
    if source.policy.latest:
        return {"latest": {"num_versions": source.policy.latest}}
    return {"specific": {"versions": source.policy.specific}} if source.policy.specific else {"all": {}}
