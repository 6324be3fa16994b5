"""Masks through the protocols: TensorFlow's ``detection_masks``, as large as the number of objects allows."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import numpy as np
import pytest

from phidet.detections.detections import Detections
from phidet.detections.masks import Masks
from phidet.serve.configuration import Policy, Source
from phidet.serve.outputs import EVERYTHING, MAP_SIDE, MASK_SIDE, to_tensors
from serve_server import MAX_DETECTIONS, Server, b64, encoded, picture, serving, settings_for, write_version

IMAGE = base64.b64encode(encoded(picture(240, 320))).decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("masks")
    write_version(base / "m", 1, "800 0 masks")
    write_version(base / "plain", 1, "800")
    write_version(base / "pixels", 1, "800 0 segments")
    sources = tuple(Source(name, base / name, Policy()) for name in ("m", "plain", "pixels"))
    with serving(settings_for(base, sources=sources)) as running:
        yield running


def test_a_mask_is_the_share_of_the_object_in_each_cell_of_its_box() -> None:
    full = np.zeros((3, 66, 132), bool)
    full[0] = True
    full[1, 33:, :66] = True
    boxes = np.array([[0, 0, 132, 66], [0, 0, 132, 66], [5, 5, 9, 9]], np.float32)
    fields = {"masks": Masks.from_full(full)}
    found = Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64), ("a",), (66, 132), fields)
    masks = to_tensors([found], [(66, 132)], 5, finds=EVERYTHING)["detection_masks"]
    assert masks.shape == (1, 5, MASK_SIDE, MASK_SIDE)
    assert (masks[0, 0] == 1).all()
    assert masks[0, 1, :16].max() == 0
    assert (masks[0, 1, 17:, :16] == 1).all()
    assert masks[0, 1, 17:, 17:].max() == 0
    assert 0 < masks[0, 1, 16, 0] < 1  # a cell that the edge divides
    assert not masks[0, 2:].any()  # an empty mask, and padding
    assert "detection_masks" not in to_tensors([found], [(66, 132)], 5)


def test_tensorflow_servings_answers_have_masks(server: Server) -> None:
    body = json.dumps({"instances": [b64(encoded(picture(240, 320)))]}).encode()
    reply = server.request("POST", "/v1/models/m:predict", body)
    assert reply.status == 200, reply.body
    [answer] = reply.json["predictions"]
    masks = np.array(answer["detection_masks"])
    assert masks.shape == (MAX_DETECTIONS, MASK_SIDE, MASK_SIDE)
    assert masks[0, :, :15].min() == 1  # the left half of the box
    assert masks[0, :, 18:].max() == 0
    plain = server.request("POST", "/v1/models/plain:predict", body).json["predictions"][0]
    assert "detection_masks" not in plain
    signature = server.request("GET", "/v1/models/m/metadata").json["metadata"]["signature_def"]["signature_def"]
    shape = signature["serving_default"]["outputs"]["detection_masks"]["tensor_shape"]["dim"]
    assert [int(dim["size"]) for dim in shape] == [-1, MAX_DETECTIONS, MASK_SIDE, MASK_SIDE]


def test_the_open_protocol_has_a_tensor_of_masks_and_says_where_there_is_none(server: Server) -> None:
    asked = {
        "inputs": [{"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [IMAGE]}],
        "outputs": [{"name": "detection_masks"}],
    }
    reply = server.request("POST", "/v2/models/m/infer", json.dumps(asked).encode())
    assert reply.status == 200, reply.body
    [output] = reply.json["outputs"]
    assert output["shape"] == [1, MAX_DETECTIONS, MASK_SIDE, MASK_SIDE]
    assert np.array(output["data"]).reshape(output["shape"])[0, 0, :, :15].min() == 1
    names = [tensor["name"] for tensor in server.request("GET", "/v2/models/m").json["outputs"]]
    assert "detection_masks" in names
    refused = server.request("POST", "/v2/models/plain/infer", json.dumps(asked).encode())
    assert refused.status == 400
    assert refused.error == '"plain" has no output detection_masks: its answers are boxes only'


def test_the_class_of_every_pixel_is_a_map_of_one_size(server: Server) -> None:
    body = json.dumps({"instances": [b64(encoded(picture(240, 320)))]}).encode()
    [answer] = server.request("POST", "/v1/models/pixels:predict", body).json["predictions"]
    cells = np.array(answer["label_map"])
    assert cells.shape == (MAP_SIDE, MAP_SIDE)
    assert (cells[:, :64] == 2).all()  # the left half is of class 1
    assert (cells[:32, 64:] == 0).all()  # the upper right quarter of none
    assert (cells[64:, 64:] == 3).all()
    assert "label_map" not in server.request("POST", "/v1/models/m:predict", body).json["predictions"][0]
    asked = {
        "inputs": [{"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [IMAGE]}],
        "outputs": [{"name": "label_map"}],
    }
    reply = server.request("POST", "/v2/models/pixels/infer", json.dumps(asked).encode())
    assert reply.status == 200, reply.body
    [output] = reply.json["outputs"]
    assert output["shape"] == [1, MAP_SIDE, MAP_SIDE]
    assert np.array(output["data"]).reshape(MAP_SIDE, MAP_SIDE).tolist() == cells.tolist()
    refused = server.request("POST", "/v2/models/m/infer", json.dumps(asked).encode())
    assert refused.status == 400
    assert '"m" has no output label_map' in refused.error
