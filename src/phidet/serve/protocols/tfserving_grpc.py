"""TensorFlow Serving's PredictionService and ModelService over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from phidet.core.errors import ConfigError
from phidet.images.decode import Decoded
from phidet.serve.calls import Call
from phidet.serve.config_files import read_sources
from phidet.serve.inputs import ENCODED, check_shape, encoded_images, from_numbers, images_of_numbers
from phidet.serve.messages import message
from phidet.serve.models.versions import LoadedVersion
from phidet.serve.outputs import Tensors, output_shapes
from phidet.serve.protocols.rpc import Method, Methods, filled, now
from phidet.serve.protocols.tfserving import Target, inputs_of, metadata, model_status
from phidet.serve.refusals import RefusedError, bad_request
from phidet.serve.service import ParsedRequest, RequestCodec, Service
from phidet.serve.wire import show

_PACKAGE = "tensorflow.serving"
_METADATA = "signature_def"


def methods(service: Service) -> Methods:
    """The methods of both services."""

    async def predict(request: Any, call: Call) -> Any:
        return await _predict(request, call, service)

    async def reload(request: Any, call: Call) -> Any:
        await _reload(request, call, service)
        return message(f"{_PACKAGE}.ReloadConfigResponse")(status={})

    def status(request: Any) -> Any:
        found = model_status(service.repository, _target(request.model_spec))
        return filled(f"{_PACKAGE}.GetModelStatusResponse", found)

    def refused(name: str) -> Method:
        async def refuse(_: Any, __: Call) -> Any:
            raise bad_request(f"a detector has no signature for {name}: use Predict")

        return Method("", refuse)

    prediction, model = f"/{_PACKAGE}.PredictionService", f"/{_PACKAGE}.ModelService"
    return {
        f"{prediction}/Predict": Method(f"{_PACKAGE}.PredictRequest", predict),
        f"{prediction}/GetModelMetadata": Method(
            f"{_PACKAGE}.GetModelMetadataRequest", now(lambda request: _metadata(request, service))
        ),
        **{f"{prediction}/{name}": refused(name) for name in ("Classify", "Regress", "MultiInference")},
        f"{model}/GetModelStatus": Method(f"{_PACKAGE}.GetModelStatusRequest", now(status)),
        f"{model}/HandleReloadConfigRequest": Method(f"{_PACKAGE}.ReloadConfigRequest", reload),
    }


async def _predict(request: Any, call: Call, service: Service) -> Any:
    call.model = request.model_spec.name
    loaded = service.repository.find(*_target(request.model_spec))
    with loaded.used():
        call.version = loaded.version
        codec = RequestCodec(
            lambda: _read_images(request, loaded, service), lambda wanted, tensors: _answer(wanted, tensors, loaded)
        )
        return await service.answer(call, loaded, codec, request.ByteSize())


def _read_images(request: Any, loaded: LoadedVersion, service: Service) -> ParsedRequest[Sequence[str]]:
    """The images of a request, and the outputs that it asks for: all, unless it names some."""
    names = inputs_of(request.model_spec.signature_name)
    given = sorted(request.inputs)
    if len(given) != 1 or given[0] not in names:
        raise bad_request(f"expected one input, {' or '.join(names)}, got {show(given)}")
    known = output_shapes(0, loaded.model.finds)
    for name in request.output_filter:
        if name not in known:
            raise bad_request(
                f"output tensor alias not found in signature: {name[:200]} Outputs expected to be in the set "
                f"{{{','.join(known)}}}."
            )
    return ParsedRequest(
        _images(given[0], request.inputs[given[0]], service, loaded), list(request.output_filter) or list(known)
    )


def _images(name: str, tensor: Any, service: Service, loaded: LoadedVersion) -> Sequence[Decoded]:
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    check_shape(name, shape)
    # Before anything is decoded: the number of images is the cheapest thing to reject. A scalar is one image.
    service.check_count(shape[0] if shape else 1)
    kind, budget = _type_name(tensor), service.budget(loaded)
    # As over HTTP, bytes are an image under either name.
    if kind == "DT_STRING":
        return encoded_images(name, shape, tensor.string_val, budget)
    if kind != "DT_UINT8" or name == ENCODED:
        wanted = "DT_STRING" if name == ENCODED else "DT_UINT8 or DT_STRING"
        raise bad_request(f"input {name} must be {wanted}, got {kind}")
    # Clients write arrays as bytes, and small ones as numbers.
    content = tensor.tensor_content
    values = np.frombuffer(content, np.uint8) if content else from_numbers(tensor.int_val)
    return images_of_numbers(name, shape, values, budget)


def _type_name(tensor: Any) -> str:
    """The name of a tensor's type; protobuf keeps numbers that it has no name for."""
    types = tensor.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number
    return types[tensor.dtype].name if tensor.dtype in types else str(tensor.dtype)


def _answer(wanted: Sequence[str], tensors: Tensors, loaded: LoadedVersion) -> Any:
    answer = message(f"{_PACKAGE}.PredictResponse")()
    answer.model_spec.name = loaded.name
    answer.model_spec.version.value = loaded.version
    for name in wanted:
        tensor, array = answer.outputs[name], tensors[name]
        tensor.dtype = 1  # DT_FLOAT
        for side in array.shape:
            tensor.tensor_shape.dim.add(size=side)
        # As numbers, not as tensor_content: much code reads outputs["…"].float_val, which TensorFlow Serving fills.
        tensor.float_val.extend(array.ravel().tolist())
    return answer


def _metadata(request: Any, service: Service) -> Any:
    if list(request.metadata_field) != [_METADATA]:
        raise bad_request(f"expected the metadata_field {_METADATA}, got {show(list(request.metadata_field))}")
    found = metadata(service.repository.find(*_target(request.model_spec)))
    # What JSON has under "metadata" is packed into an Any, whose type has the name that it has with all servers.
    kind = f"{_PACKAGE}.SignatureDefMap"
    packed = filled(kind, found["metadata"][_METADATA]).SerializeToString(deterministic=True)
    answer = filled(f"{_PACKAGE}.GetModelMetadataResponse", {"model_spec": found["model_spec"]})
    answer.metadata[_METADATA].type_url = f"type.googleapis.com/{kind}"
    answer.metadata[_METADATA].value = packed
    return answer


async def _reload(request: Any, call: Call, service: Service) -> None:
    """Serves the models of the request from now on, and waits until they are loaded.

    Raises:
        RefusedError: 403 not allowed, 400 not a configuration, 500 a model has no version that can be loaded.
    """
    root = service.settings.reload_root
    if root is None:
        raise RefusedError(403, "this server's models are chosen where it was started; see --reload_config_root")
    # Before anything is looked for: what a folder outside is, or whether it exists, is none of the client's business.
    for config in request.config.model_config_list.config:
        if not (root / config.base_path).resolve().is_relative_to(root.resolve()):
            raise RefusedError(403, f"model {config.name[:200]}: its base_path leads out of --reload_config_root")
    try:
        sources = read_sources(request.config, "the request", root)
    except ConfigError as error:
        raise bad_request(str(error)) from error
    service.repository.configure(sources)
    # The client learns whether its models answer, not only that they were asked for.
    failed = await service.repository.applied([source.name for source in sources], call.deadline)
    if failed:
        raise RefusedError(500, "; ".join(failed))


def _target(spec: Any) -> Target:
    choice = spec.WhichOneof("version_choice")
    return Target(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )
