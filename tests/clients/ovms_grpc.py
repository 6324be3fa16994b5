"""ovmsclient over gRPC, as its documentation uses it. Arguments: address, picture file. Prints JSON."""

import json
import sys

import numpy as np
import ovmsclient
from ovmsclient.tfs_compat.base.errors import InvalidInputError, ModelNotFoundError

address, file = sys.argv[1:]
client = ovmsclient.make_grpc_client(address)
with open(file, "rb") as picture:
    data = picture.read()
pixels = np.load(file + ".npy")
answers = {
    "bytes": client.predict({"image_bytes": data}, "m"),
    "bytes_as_tensor": client.predict({"input_tensor": data}, "m"),
    "array": client.predict({"input_tensor": pixels[None]}, "m"),
    "version": client.predict({"image_bytes": data}, "m", model_version=7),
}


def error_of(inputs, name, error):
    try:
        client.predict(inputs, name)
    except error as raised:
        return str(raised)
    return "no error"


print(
    json.dumps(
        {
            "answers": {k: {name: value.tolist() for name, value in v.items()} for k, v in answers.items()},
            "status": client.get_model_status("m"),
            "status_of_7": client.get_model_status("m", model_version=7),
            "metadata": client.get_model_metadata("m"),
            "missing": error_of({"image_bytes": data}, "nothing", ModelNotFoundError),
            "invalid": error_of({"image_bytes": b"not a picture"}, "m", InvalidInputError),
            "floats": error_of({"input_tensor": pixels[None].astype(np.float32)}, "m", InvalidInputError),
        }
    )
)
