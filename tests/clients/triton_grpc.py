"""tritonclient over gRPC: one by one, as a stream, with asyncio. Arguments: address, picture file. Prints JSON."""

import asyncio
import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

address, file = sys.argv[1:]
client = triton.InferenceServerClient(address)
with open(file, "rb") as picture:
    data = picture.read()
pixels = np.load(file + ".npy")


def encoded(value):
    tensor = triton.InferInput("image_bytes", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value], dtype=np.object_))
    return tensor


def numbers():
    tensor = triton.InferInput("input_tensor", [1, *pixels.shape], "UINT8")
    tensor.set_data_from_numpy(pixels[None])
    return tensor


def plain(result):
    return {output.name: result.as_numpy(output.name).tolist() for output in result.get_response().outputs}


def error_of(call):
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return "no error"


def streamed():
    """Six requests, one of which is not right, with one stream."""
    found = queue.Queue()
    client.start_stream(callback=lambda result, error: found.put((result, error)))
    for i in range(6):
        client.async_stream_infer("m", [encoded(b"broken" if i == 3 else data)], request_id=str(i))
    answers = [found.get(timeout=600) for _ in range(6)]
    client.stop_stream()
    return [
        {"error": error.message()} if error else {"id": result.get_response().id, **plain(result)}
        for result, error in answers
    ]


async def with_asyncio():
    async with triton_aio.InferenceServerClient(address) as asked:
        both = await asyncio.gather(*(asked.infer("m", [encoded(data)]) for _ in range(8)))

        async def requests():
            for i in range(3):
                yield {"model_name": "m", "inputs": [encoded(data)], "request_id": str(i)}

        in_stream = [result async for result, error in asked.stream_infer(requests()) if error is None]
        return [plain(result) for result in [*both, *in_stream]]


def with_callback():
    found = queue.Queue()
    client.async_infer("m", [encoded(data)], callback=lambda result, error: found.put((result, error)))
    result, error = found.get(timeout=600)
    assert error is None, error
    return result


boxes = [triton.InferRequestedOutput("detection_boxes")]
answers = {
    "bytes": client.infer("m", [encoded(data)]),
    "array": client.infer("m", [numbers()]),
    "gzip": client.infer("m", [encoded(data)], compression_algorithm="gzip"),
    "version": client.infer("m", [encoded(data)], model_version="7"),
    "chosen": client.infer("m", [encoded(data)], outputs=boxes, request_id="r1"),
    "async": with_callback(),
}
counted = [triton.InferRequestedOutput("detection_scores", class_count=2)]
print(
    json.dumps(
        {
            "answers": {k: plain(v) for k, v in answers.items()},
            "id": answers["chosen"].get_response().id,
            "stream": streamed(),
            "asyncio": asyncio.run(with_asyncio()),
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": [client.is_model_ready("m"), client.is_model_ready("m", "7")],
            "server": client.get_server_metadata(as_json=True),
            "model": client.get_model_metadata("m", "7", as_json=True),
            "config": client.get_model_config("m", "7", as_json=True),
            "statistics": client.get_inference_statistics("m", "7", as_json=True),
            "index": client.get_model_repository_index(as_json=True),
            "missing": error_of(lambda: client.infer("nothing", [encoded(data)])),
            "invalid": error_of(lambda: client.infer("m", [encoded(b"not a picture")])),
            "refused": error_of(lambda: client.infer("m", [encoded(data)], outputs=counted)),
            "load": error_of(lambda: client.load_model("m")),
        }
    )
)
