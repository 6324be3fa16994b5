"""What gRPC costs beside HTTP: the same image asked for in four ways, which take turns.

    python benchmarks/serve_transports.py image.jpg --models models/person
    python benchmarks/serve_transports.py image.jpg                          # a stand-in that costs nothing: no network

Requests are made anew for each call and answers are read into arrays, as clients do. Of each way the median counts, and
its ratio to TensorFlow Serving's REST; processor time is that of client and server together. A turn is ten of a kind.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np

from phidet.serve.messages import message
from serve_load import Cost, cost_of, server, status

SERVING, INFERENCE = "tensorflow.serving", "inference"
Ask = Callable[[], object]


def over_http(connection: http.client.HTTPConnection, data: bytes) -> dict[str, Ask]:
    """TensorFlow Serving's REST, and the Open Inference Protocol with binary tensors."""

    def rest() -> object:
        body = json.dumps({"inputs": [{"b64": base64.b64encode(data).decode()}]})
        connection.request("POST", "/v1/models/m:predict", body)
        answer = json.loads(connection.getresponse().read())["outputs"]
        return {name: np.array(value, np.float32) for name, value in answer.items()}

    def binary() -> object:
        blob = len(data).to_bytes(4, "little") + data
        given = {
            "name": "image_bytes",
            "shape": [1],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(blob)},
        }
        head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        connection.request("POST", "/v2/models/m/infer", head + blob, headers)
        reply = connection.getresponse()
        size, body = int(reply.headers["Inference-Header-Content-Length"]), reply.read()
        found, at = {}, size
        for output in json.loads(body[:size])["outputs"]:
            length = output["parameters"]["binary_data_size"]
            found[output["name"]] = np.frombuffer(body[at : at + length], "<f4").reshape(output["shape"])
            at += length
        return found

    return {"REST": rest, "v2 over HTTP, binary": binary}


def over_grpc(channel: grpc.Channel, data: bytes) -> dict[str, Ask]:
    """Both protocols over gRPC."""
    call_predict = channel.unary_unary(f"/{SERVING}.PredictionService/Predict")
    call_infer = channel.unary_unary(f"/{INFERENCE}.GRPCInferenceService/ModelInfer")

    def predict() -> object:
        request = message(f"{SERVING}.PredictRequest")()
        request.model_spec.name = "m"
        tensor = request.inputs["image_bytes"]
        tensor.dtype = 7  # DT_STRING
        tensor.tensor_shape.dim.add(size=1)
        tensor.string_val.append(data)
        answer = message(f"{SERVING}.PredictResponse").FromString(call_predict(request.SerializeToString()))
        return {
            name: np.array(tensor.float_val, np.float32).reshape([dim.size for dim in tensor.tensor_shape.dim])
            for name, tensor in answer.outputs.items()
        }

    def infer() -> object:
        request = message(f"{INFERENCE}.ModelInferRequest")(model_name="m")
        request.inputs.add(name="image_bytes", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(len(data).to_bytes(4, "little") + data)
        answer = message(f"{INFERENCE}.ModelInferResponse").FromString(call_infer(request.SerializeToString()))
        pairs = zip(answer.outputs, answer.raw_output_contents, strict=True)
        return {output.name: np.frombuffer(raw, "<f4").reshape(list(output.shape)) for output, raw in pairs}

    return {"Predict over gRPC": predict, "ModelInfer over gRPC": infer}


@contextmanager
def serving(models: Path | None, grpc_port: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server of a model, or of one that costs nothing, in a process of its own; the latter is that of the tests."""
    if models is not None:
        with server(models, "--port", str(grpc_port)) as both:
            yield both
        return
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        version = Path(folder, "m", "1")
        version.mkdir(parents=True)
        (version / "model.onnx").write_text("900")
        probe.close()
        script = Path(__file__).parents[1] / "tests" / "serve_stand_in.py"
        process = subprocess.Popen([sys.executable, str(script), str(version.parent), str(port), str(grpc_port)])
        try:
            while status(port) != 200:
                time.sleep(0.1)
            yield process, port
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--models", type=Path, help="folder of version folders (a stand-in that finds the same always)")
    parser.add_argument("--rounds", type=int, default=400, help="requests of each way")
    parser.add_argument("--turn", type=int, default=10, help="of them one after another")
    args = parser.parse_args()
    data = args.image.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        grpc_port = probe.getsockname()[1]
    with (
        serving(args.models, grpc_port) as (process, port),
        grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        ways = over_http(connection, data) | over_grpc(channel, data)
        costs: dict[str, list[Cost]] = {name: [] for name in ways}
        for _ in range(args.rounds // args.turn + 1):  # the first turn warms up
            connection.close()  # else the server may close it while the others have their turns
            for name, ask in ways.items():
                costs[name] += [cost_of(ask, process.pid) for _ in range(args.turn)]
    print(f"an image of {len(data) / 1000:.0f} kB, {args.rounds} of each way in turns of {args.turn}, medians")
    for kind in ("wall", "cpu"):
        middle = {
            name: statistics.median(getattr(cost, kind) for cost in found[args.turn :]) for name, found in costs.items()
        }
        for name, seconds in middle.items():
            print(f"  {kind}: {name:22} {seconds * 1000:7.2f} ms, {seconds / middle['REST']:.3f} of REST's")


if __name__ == "__main__":
    main()
