"""A client for gRPC without opinions, on the server's own messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from phidet.serve.messages import message
from phidet.serve.server import Network
from serve_server import Server, encoded, picture

SERVING, INFERENCE, HEALTH = "tensorflow.serving", "inference", "grpc.health.v1"
PREDICT = f"/{SERVING}.PredictionService/Predict"
INFER = f"/{INFERENCE}.GRPCInferenceService/ModelInfer"
STREAM = f"/{INFERENCE}.GRPCInferenceService/ModelStreamInfer"
ON = Network(grpc_port=0)
"""HTTP and gRPC, on free ports."""
Metadata = tuple[tuple[str, str], ...]


class Client:
    """A channel to one server. Messages are named in full."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def raw(self, path: str, body: bytes, metadata: Metadata = (), **options: Any) -> bytes:
        answer: bytes = self.channel.unary_unary(path)(body, metadata=metadata, timeout=600, **options)
        return answer

    def ask(self, path: str, request: Any, response: str, metadata: Metadata = ()) -> Any:
        return message(response).FromString(self.raw(path, request.SerializeToString(), metadata))

    def future(self, path: str, request: Any, seconds: float = 600) -> grpc.Future:
        return self.channel.unary_unary(path).future(request.SerializeToString(), timeout=seconds)

    def stream(self, requests: Iterable[Any]) -> Iterator[Any]:
        kind = message(f"{INFERENCE}.ModelStreamInferResponse")
        bodies = (request.SerializeToString() for request in requests)
        return map(kind.FromString, self.channel.stream_stream(STREAM)(bodies, timeout=600))

    def predict(self, request: Any) -> dict[str, npt.NDArray[np.float32]]:
        answer = self.ask(PREDICT, request, f"{SERVING}.PredictResponse")
        return {name: tensor_of(tensor) for name, tensor in answer.outputs.items()}

    def infer(self, request: Any) -> dict[str, npt.NDArray[np.float32]]:
        return tensors_of(self.ask(INFER, request, f"{INFERENCE}.ModelInferResponse"))


@contextmanager
def client(server: Server, credentials: grpc.ChannelCredentials | None = None) -> Iterator[Client]:
    # A connection of its own: else all channels of a process to one address share one.
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    address = f"localhost:{server.grpc_port}"
    if credentials is None:
        channel = grpc.insecure_channel(address, options)
    else:
        channel = grpc.secure_channel(address, credentials, options)
    with channel:
        yield Client(channel)


def tensor_of(tensor: Any) -> npt.NDArray[np.float32]:
    return np.array(tensor.float_val, np.float32).reshape([dim.size for dim in tensor.tensor_shape.dim])


def tensors_of(answer: Any) -> dict[str, npt.NDArray[np.float32]]:
    pairs = zip(answer.outputs, answer.raw_output_contents, strict=True)
    return {o.name: np.frombuffer(data, "<f4").reshape(list(o.shape)) for o, data in pairs}


def predict_request(*images: bytes, name: str = "m", tensor: str = "image_bytes") -> Any:
    """TensorFlow Serving's request for encoded images."""
    request = message(f"{SERVING}.PredictRequest")()
    request.model_spec.name = name
    given = request.inputs[tensor]
    given.dtype = 7  # DT_STRING
    given.tensor_shape.dim.add(size=len(images))
    given.string_val.extend(images)
    return request


def predict_pixels(images: npt.NDArray[np.uint8]) -> Any:
    """TensorFlow Serving's request for (N, H, W, 3) uint8."""
    request = message(f"{SERVING}.PredictRequest")()
    request.model_spec.name = "m"
    given = request.inputs["input_tensor"]
    given.dtype = 4  # DT_UINT8
    for side in images.shape:
        given.tensor_shape.dim.add(size=side)
    given.tensor_content = images.tobytes()
    return request


def infer_request(*images: bytes, request_id: str = "") -> Any:
    """The Open Inference Protocol's request for encoded images."""
    request = message(f"{INFERENCE}.ModelInferRequest")(model_name="m", id=request_id)
    given = request.inputs.add(name="image_bytes", datatype="BYTES", shape=[len(images)])
    given.contents.bytes_contents.extend(images)
    return request


IMAGE = encoded(picture())


def code_of(error: Any) -> str:
    """The name of the status of a failed call."""
    code: str = error.value.code().name
    return code
