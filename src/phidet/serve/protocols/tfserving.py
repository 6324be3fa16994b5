"""What both halves of TensorFlow Serving's protocol share: signatures, metadata and status, as its JSON has them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from phidet.serve.inputs import ENCODED, TENSOR
from phidet.serve.models.versions import LoadedVersion, Repository, State
from phidet.serve.outputs import output_shapes
from phidet.serve.refusals import bad_request

DEFAULT_SIGNATURE = "serving_default"
SIGNATURES = {DEFAULT_SIGNATURE: (TENSOR, ENCODED), TENSOR: (TENSOR,), ENCODED: (ENCODED,)}
"""Signature → the inputs that it takes, one of them in a request: numbers, or an image in base64."""
_DTYPES = {TENSOR: "DT_UINT8", ENCODED: "DT_STRING"}
_SHAPES = {TENSOR: (-1, -1, -1, 3), ENCODED: (-1,)}


class Target(NamedTuple):
    """Which version of which model a path means."""

    name: str
    version: int | None
    label: str | None


class StatusCode(msgspec.Struct):
    """Why a version does not answer, in the words of gRPC."""

    error_code: Literal["OK", "UNKNOWN"]
    error_message: str


class VersionStatus(msgspec.Struct):
    """Where a version is in its life; its number is a string, as protobuf's JSON has it."""

    version: str
    state: State
    status: StatusCode


class ModelStatus(msgspec.Struct):
    """The answer to a request for a model's status."""

    model_version_status: list[VersionStatus]


def inputs_of(signature: str) -> tuple[str, ...]:
    """The inputs that a signature takes; "" is the default one, which takes either.

    Raises:
        RefusedError: 400: there is no such signature.
    """
    names = SIGNATURES.get(signature or DEFAULT_SIGNATURE)
    if names is None:
        raise bad_request(f'Serving signature name: "{signature[:200]}" not found in signature def')
    return names


def metadata(loaded: LoadedVersion) -> dict[str, Any]:
    """What a signature's inputs and outputs are, by TensorFlow Serving's names; ``signature_def`` twice, as it has it.

    ``serving_default`` is listed with ``input_tensor`` as the TF Object Detection API exports it, and takes
    ``image_bytes`` as well.
    """
    outputs = {
        name: _tensor_info(name, "DT_FLOAT", (-1, *shape))
        for name, shape in output_shapes(loaded.model.max_detections, loaded.model.finds).items()
    }
    signatures = {
        signature: {
            "inputs": {names[0]: _tensor_info(names[0], _DTYPES[names[0]], _SHAPES[names[0]])},
            "outputs": outputs,
            "method_name": "tensorflow/serving/predict",
            "defaults": {},
        }
        for signature, names in SIGNATURES.items()
    }
    return {
        "model_spec": {"name": loaded.name, "signature_name": "", "version": str(loaded.version)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def model_status(repository: Repository, target: Target) -> ModelStatus:
    """The versions that a path or a ``ModelSpec`` means, and where they are.

    Raises:
        RefusedError: as :meth:`Repository.status`.
    """
    return ModelStatus(
        [
            VersionStatus(str(v.version), v.state, StatusCode("UNKNOWN" if v.error else "OK", v.error))
            for v in repository.status(*target)
        ]
    )


def _tensor_info(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in shape]
    return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": f"{name}:0"}
