"""tritonclient over HTTP, with binary tensors and without. Arguments: address, picture file. Prints JSON."""

import json
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

address, file = sys.argv[1:]
client = triton.InferenceServerClient(address)
with open(file, "rb") as picture:
    data = picture.read()
pixels = np.load(file + ".npy")


def encoded(value, binary=True):
    tensor = triton.InferInput("image_bytes", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value], dtype=np.object_), binary_data=binary)
    return tensor


def numbers(binary=True):
    tensor = triton.InferInput("input_tensor", [1, *pixels.shape], "UINT8")
    tensor.set_data_from_numpy(pixels[None], binary_data=binary)
    return tensor


def plain(result):
    names = [output["name"] for output in result.get_response()["outputs"]]
    return {name: result.as_numpy(name).tolist() for name in names}


boxes = [triton.InferRequestedOutput("detection_boxes", binary_data=False)]
mixed = [triton.InferRequestedOutput("num_detections"), *boxes]
answers = {
    "binary": client.infer("m", [encoded(data)]),
    "array": client.infer("m", [numbers()]),
    "array_in_json": client.infer("m", [numbers(binary=False)]),
    "gzip": client.infer("m", [encoded(data)], request_compression_algorithm="gzip"),
    "deflate": client.infer("m", [encoded(data)], request_compression_algorithm="deflate"),
    "version": client.infer("m", [encoded(data)], model_version="7"),
    "chosen": client.infer("m", [encoded(data)], outputs=boxes),
    "mixed": client.infer("m", [encoded(data)], outputs=mixed, request_id="r1"),
    "async": client.async_infer("m", [encoded(data)]).get_result(),
}
try:
    client.infer("nothing", [encoded(data)])
    missing = "no error"
except InferenceServerException as error:
    missing = error.message()
try:
    client.infer("m", [encoded(data)], outputs=[triton.InferRequestedOutput("detection_scores", class_count=2)])
    refused = "no error"
except InferenceServerException as error:
    refused = error.message()
print(
    json.dumps(
        {
            "answers": {k: plain(v) for k, v in answers.items()},
            "id": answers["mixed"].get_response()["id"],
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": [client.is_model_ready("m"), client.is_model_ready("m", "7"), client.is_model_ready("x")],
            "server": client.get_server_metadata(),
            "model": client.get_model_metadata("m", "7"),
            "config": client.get_model_config("m", "7"),
            "statistics": client.get_inference_statistics("m", "7"),
            "refused": refused,
            "index": client.get_model_repository_index(),
            "missing": missing,
        }
    )
)
