"""What both halves of the Open Inference Protocol share: the server, its models and their states, as JSON has them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from phidet.core.extras import __version__
from phidet.serve.models.folders import version_number
from phidet.serve.outputs import output_shapes
from phidet.serve.protocols.inference_tensors import INPUTS, TensorMetadata
from phidet.serve.protocols.triton import EXTENSIONS, model_config, model_statistics
from phidet.serve.refusals import RefusedError, bad_request
from phidet.serve.service import Service
from phidet.serve.wire import show

ReadyState = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


_READY: dict[str, ReadyState] = {
    "START": "LOADING",
    "LOADING": "LOADING",
    "AVAILABLE": "READY",
    "UNLOADING": "UNLOADING",
    "END": "UNAVAILABLE",
}


class ServerMetadata(msgspec.Struct):
    """The answer of ``/v2``."""

    name: str
    version: str
    extensions: tuple[str, ...]


class IndexEntry(msgspec.Struct):
    """A version in Triton's list of models."""

    name: str
    version: str
    state: ReadyState
    reason: str


class ModelParameters(msgspec.Struct):
    """What phidet adds to a model's metadata beyond the protocol."""

    class_names: list[str]
    image_size_hw: list[int]


class ModelMetadata(msgspec.Struct):
    """A model; of its inputs a request gives one."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: ModelParameters


def server_metadata() -> ServerMetadata:
    """What the server is."""
    return ServerMetadata("phidet", __version__, EXTENSIONS)


def metadata(service: Service, name: str, version: int | None) -> ModelMetadata:
    """A model's inputs, outputs and classes, and which of its versions answer.

    Raises:
        RefusedError: 404: there is no such model or version.
    """
    loaded = service.repository.find(name, version)
    model = loaded.model
    shapes = output_shapes(model.max_detections, model.finds)
    return ModelMetadata(
        name=loaded.name,
        versions=[str(number) for number in sorted(service.repository.models[name].available)],
        platform=f"phidet_{model.runtime_name}",
        inputs=list(INPUTS.values()),
        outputs=[TensorMetadata(name, "FP32", [-1, *shape]) for name, shape in shapes.items()],
        parameters=ModelParameters(list(model.class_names), list(model.image_size_hw)),
    )


def is_ready(service: Service, name: str, version: int | None) -> bool:
    """Whether a model, or one version of it, answers.

    Raises:
        RefusedError: 404: there has never been such a model or version.
    """
    if name not in service.repository.models:
        raise RefusedError(404, f"unknown model {show(name)}")
    # A version that was never there is unknown, where one that is loading is only not ready.
    if version:
        service.repository.status(name, version)
    try:
        service.repository.find(name, version)
    except RefusedError:
        return False
    return True


def index(service: Service, only_ready: bool) -> list[IndexEntry]:
    """All versions of all models, or those that answer."""
    return [
        IndexEntry(name, str(s.version), _READY[s.state], s.error)
        for name, served in sorted(service.repository.models.items())
        for s in sorted(served.states.values())
        if s.state == "AVAILABLE" or not only_ready
    ]


def configuration(service: Service, name: str, version: int | None) -> dict[str, Any]:
    """A model's configuration in the form of Triton's ``config.pbtxt``.

    Raises:
        RefusedError: 404: there is no such model or version.
    """
    loaded = service.repository.find(name, version)
    return model_config(loaded, service.repository.models[name].source, service.settings)


def statistics(service: Service, name: str = "", version: int | None = None) -> dict[str, Any]:
    """Triton's statistics: of all models, of one, or of one version.

    Raises:
        RefusedError: 404: there is no such model or version.
    """
    if not name:
        found = [loaded for model in service.repository.models.values() for loaded in model.available.values()]
    else:
        loaded = service.repository.find(name, version)
        found = [loaded] if version else list(service.repository.models[name].available.values())
    ordered = sorted(found, key=lambda loaded: (loaded.name, loaded.version))
    return {"model_stats": [model_statistics(loaded) for loaded in ordered]}


def parse_version(text: str | None) -> int | None:
    """The version that a client writes; ``None`` where it leaves it out.

    Raises:
        RefusedError: 400: not a number.
    """
    if text is None:
        return None
    # Out-of-range versions are the client's mistake (400); a version that does not exist is 404.
    number = version_number(text)
    if number is None:
        raise bad_request(f"a version is a number below 2⁶³, got {show(text)}")
    return number
