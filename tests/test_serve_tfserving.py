"""TensorFlow Serving's REST contract on the wire: paths, forms, texts of errors, and values."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from collections.abc import Iterator

import numpy as np
import pytest

from phidet.serve import wire
from phidet.serve.configuration import Policy, Source
from phidet.serve.refusals import RefusedError
from serve_server import (
    CLASSES,
    MAX_DETECTIONS,
    PREDICT,
    Server,
    b64,
    encoded,
    expected,
    picture,
    serving,
    settings_for,
    write_version,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("m")
    write_version(base, "00007", "800")
    write_version(base, "9", "900")
    write_version(base, "notes", "100")
    labels = {"stable": 7, "gone": 3}
    source = Source("m", base, policy=Policy(), labels=labels)
    limits = {"body_bytes": 1 << 20, "image_pixels": 10_000, "instances": 8}
    with serving(settings_for(base, sources=(source,), limits=limits)) as running:
        yield running


def tensors(image: np.ndarray, score: float = 0.9) -> dict[str, np.ndarray]:
    """The answer that the API's definition gives for the stand-in's two objects."""
    found = expected(image, score)
    height, width = image.shape[:2]
    boxes = np.zeros((MAX_DETECTIONS, 4), np.float32)
    for row, (x1, y1, x2, y2) in enumerate(found.boxes_xyxy.tolist()):
        boxes[row] = [y1 / height, x1 / width, y2 / height, x2 / width]
    return {
        "detection_boxes": boxes,
        "detection_classes": np.array([3, 1] + [0] * (MAX_DETECTIONS - 2), np.float32),
        "detection_scores": np.array([score, score / 2] + [0] * (MAX_DETECTIONS - 2), np.float32),
        "num_detections": np.float32(2),
    }


def check(answer: dict[str, object], image: np.ndarray, score: float = 0.9) -> None:
    wanted = tensors(image, score)
    assert list(answer) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(np.array(answer[name], np.float32), value, err_msg=name)


IMAGE = picture()
LISTS = IMAGE.tolist()
PICTURE = b64(encoded(IMAGE))


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [PICTURE]},
        {"instances": [{"image_bytes": PICTURE}]},
        {"instances": [{"input_tensor": LISTS}]},
        {"instances": [LISTS]},
        {"instances": [PICTURE], "signature_name": "serving_default"},
        {"instances": [PICTURE], "signature_name": ""},
        {"instances": [PICTURE], "signature_name": "image_bytes"},
        {"instances": [LISTS], "signature_name": "input_tensor"},
        {"instances": [PICTURE], "unknown_key": 1},
    ],
)
def test_row_form_gives_each_image_an_object(server: Server, body: object) -> None:
    reply = server.post(PREDICT, body)
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/json"
    (answer,) = reply.json["predictions"]
    check(answer, IMAGE)


@pytest.mark.parametrize(
    "inputs",
    [
        PICTURE,
        [PICTURE],
        {"image_bytes": PICTURE},
        {"image_bytes": [PICTURE], "another": 3},
        {"input_tensor": [LISTS]},
        {"input_tensor": [PICTURE]},
        [LISTS],
    ],
)
def test_column_form_gives_each_output_a_tensor(server: Server, inputs: object) -> None:
    reply = server.post(PREDICT, {"inputs": inputs})
    assert reply.status == 200, reply.body
    answer = reply.json["outputs"]
    assert all(len(value) == 1 for value in answer.values())
    check({name: value[0] for name, value in answer.items()}, IMAGE)


def test_images_of_different_sizes_and_formats_share_a_request(server: Server) -> None:
    images = [picture(20, 30, 1), picture(7, 90, 2), picture(64, 5, 3)]
    files = [encoded(images[0]), encoded(images[1], "BMP"), encoded(images[2], "TIFF")]
    reply = server.post(PREDICT, {"instances": [b64(data) for data in files]})
    for answer, image in zip(reply.json["predictions"], images, strict=True):
        check(answer, image)


@pytest.mark.parametrize(
    ("path", "score"),
    [
        (PREDICT, 0.9),
        ("/v1/models/m/versions/9:predict", 0.9),
        ("/v1/models/m/versions/7:predict", 0.8),
        ("/v1/models/m/versions/007:predict", 0.8),
        ("/v1/models/m/versions/0:predict", 0.9),
        ("/v1/models/m/labels/stable:predict", 0.8),
        ("/v1/models/%6D/labels/st%61ble:predict", 0.8),
        ("/V1/MODELS/m:PREDICT", 0.9),
        (PREDICT + "?x=1", 0.9),
    ],
)
def test_paths_choose_the_version(server: Server, path: str, score: float) -> None:
    reply = server.post(path, {"instances": [PICTURE]})
    assert reply.status == 200, reply.body
    check(reply.json["predictions"][0], IMAGE, score)


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/v1/models/x", 404, "Could not find any versions of model x"),
        ("GET", "/v1/models/m/versions/5", 404, "Could not find version 5 of model m"),
        ("GET", "/v1/models/m/labels/x", 400, "Unrecognized servable version label: x"),
        ("GET", "/v1/models/m/versions/5/metadata", 404, "Servable not found for request: Specific(m, 5)"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/m/", 400, "Malformed request: GET /v1/models/m/"),
        ("GET", "/v1/models/m/versions/x", 400, "Malformed request: GET /v1/models/m/versions/x"),
        ("GET", "/v1/models/m:predict", 400, "Malformed request: GET /v1/models/m:predict"),
        ("GET", "/v1/", 400, "Malformed request: GET /v1/"),
        ("PUT", "/v1/models/m", 400, "Malformed request: PUT /v1/models/m"),
        ("POST", "/v1/models/m:detect", 400, "Malformed request: POST /v1/models/m:detect"),
        ("POST", "/v1/models/x:predict", 404, "Servable not found for request: Latest(x)"),
        ("POST", "/v1/models/m/versions/5:predict", 404, "Servable not found for request: Specific(m, 5)"),
        ("POST", "/v1/models/m/labels/gone:predict", 404, "Servable not found for request: Specific(m, 3)"),
        ("POST", "/v1/models/m/labels/x:predict", 400, "Unrecognized servable version label: x"),
        ("POST", "/v1/models/m:classify", 400, "a detector has no signature for classify: use :predict"),
        ("POST", "/v1/models/m:regress", 400, "a detector has no signature for regress: use :predict"),
        ("POST", f"/v1/models/m/versions/{2**63}:predict", 400, f"Failed to convert version: {2**63} to numeric."),
        ("POST", "/v1/models/..%2F..%2Fetc:predict", 404, "Servable not found for request: Latest(../../etc)"),
    ],
)  # fmt: skip
def test_paths_that_mean_nothing(server: Server, method: str, path: str, status: int, error: str) -> None:
    reply = server.request(method, path, json.dumps({"instances": [PICTURE]}).encode() if method == "POST" else None)
    assert (reply.status, reply.json) == (status, {"error": error})
    assert reply.headers["content-type"] == "application/json"


FAILED = "Failed to process element: "
OF_INSTANCES = " of 'instances' list. Error: INVALID_ARGUMENT: "


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b'{"instances": ', "JSON Parse error: Expecting value at offset: 14"),
        (b'{"a": "\xff"}', "JSON Parse error: not UTF-8 at offset: 7"),
        (b"[" * 100_000, "JSON Parse error: nested deeper than 64 levels"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "JSON Parse error: nested deeper than 64 levels"),
        (b'{"instances": [1' + b"0" * 5000 + b"]}", "JSON Parse error: a number with too many digits"),
        (b"[1]", "JSON Value: [1] Is not object"),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (b'{"signature_name": 1, "instances": [1]}',
         ('JSON Value: {"signature_name": 1, "instances": [1]} not formatted correctly. '
         "'signature_name' key must be a string value.")),
        (b'{"signature_name": "x", "instances": [1]}', 'Serving signature name: "x" not found in signature def'),
        (b'{"instances": [1], "inputs": [1]}',
         ('JSON Value: {"instances": [1], "inputs": [1]} Not formatted correctly expecting only one of \'inputs\' or '
         "'instances' keys to exist ")),
        (b'{"instances": 1}', 'JSON Value: {"instances": 1} Excepting \'instances\' to be an list/array'),
        (b'{"instances": []}', "JSON Value: {\"instances\": []} No values in 'instances' array"),
        (b'{"instances": [{"x": 1}]}',
         FAILED + "0 key: x" + OF_INSTANCES + "JSON object: does not have named input: x"),
        (b'{"instances": [{}]}', FAILED + "0 of 'instances' list. JSON object: {} keys must be equal to: "
         "input_tensor or image_bytes"),
        (b'{"instances": [{"input_tensor": [], "image_bytes": {"b64": ""}}]}',
         FAILED + '0 of \'instances\' list. JSON object: {"input_tensor": [], "image_bytes": {"b64": ""}} '
         "keys must be equal to: input_tensor or image_bytes"),
        (b'{"instances": [[[[1, 2, 3]]], {"x": 1}]}', "Expecting value/list but got object at item 1 of input list"),
        (b'{"instances": [{"input_tensor": [[[1, 2, 3]]]}, 3]}',
         "Expecting object but got list at item 1 of input list"),
        (b'{"instances": [{"b64": "????"}]}', FAILED + "0" + OF_INSTANCES + "Unable to base64 decode"),
        (b'{"instances": [[[[1, 2, 3]]], [[[1, 2, 3], [4, 5, 6]]]]}',
         FAILED + "1" + OF_INSTANCES + "Expecting tensor size: 3 but got: 6"),
        (b'{"instances": [[[[1, 2, 3], [4, 5, 6]]], [[[1, 2, 3]], [[4, 5, 6]]]]}',
         FAILED + "1" + OF_INSTANCES + "Expecting shape [1,2,3] but got: [2,1,3]"),
        (b'{"instances": [[[[1, 2, 1.5]]]]}',
         FAILED + "0" + OF_INSTANCES + "JSON Value: 1.5 Type: Number is not of expected type: uint8"),
        (b'{"instances": [[[[1, 2, NaN]]]]}',
         FAILED + "0" + OF_INSTANCES + "JSON Value: NaN Type: Number is not of expected type: uint8"),
        (b'{"instances": [[[[1, 2, true]]]]}',
         FAILED + "0" + OF_INSTANCES + "JSON Value: true Type: True is not of expected type: uint8"),
        (b'{"instances": [[[[1, 2, 256]]]]}',
         FAILED + "0" + OF_INSTANCES + "JSON Value: 256 Type: Number is out of range for type: uint8"),
        (b'{"instances": [[[[1, 2, -1]]]]}',
         FAILED + "0" + OF_INSTANCES + "JSON Value: -1 Type: Number is out of range for type: uint8"),
        (b'{"instances": [[[[1, 2, 3]], [[4, 5]]]]}',
         FAILED + "0" + OF_INSTANCES + "Encountered list at unexpected size: 2 at level: 2 expected size: 3"),
        (b'{"instances": [[[[1, 2, 3]], 4]]}', FAILED + "0" + OF_INSTANCES +
         "JSON Value: 4 found at incorrect level: 2 in the JSON DOM. Expected at level: 3"),
        (b'{"instances": [[[[1, 2, 3]], [[[4], 5, 6]]]]}',
         FAILED + "0" + OF_INSTANCES + "Encountered list at unexpected level: 3 expected < 3"),
        (b'{"instances": ["text"]}', FAILED + "0" + OF_INSTANCES + 'JSON Value: "text" not formatted correctly for '
         'base64 data: expected an image as {"b64": "…"}'),
        (b'{"instances": [null]}',
         FAILED + "0" + OF_INSTANCES + "JSON Value: null Type: Null is not of expected type: uint8"),
        (b'{"inputs": {"x": 1}}', "Missing named input: input_tensor in 'inputs' object."),
        (b'{"inputs": {"input_tensor": 1}, "signature_name": "image_bytes"}',
         "Missing named input: image_bytes in 'inputs' object."),
        (b'{"inputs": [[1, 2], [3]]}', "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        (b'{"inputs": [[1, 2], [3, 4]]}',
         "input input_tensor must be uint8 of shape [-1,-1,-1,3], got shape [2, 2]"),
        (b'{"inputs": []}', "input input_tensor must be uint8 of shape [-1,-1,-1,3], got shape [0]"),
        (b'{"inputs": 1e999}', "JSON Value: Infinity Type: Number is not of expected type: uint8"),
        ((b'{"instances": [[[[1,2,3]]],[[[1,2,3]]],[[[1,2,3]]],[[[1,2,3]]],[[[1,2,3]]],[[[1,2,3]]],[[[1,2,3]]],'
         b'[[[1,2,3]]],[[[1,2,3]]]]}'), "9 images in one request, expected 1 to 8"),
    ],
)  # fmt: skip
def test_bodies_that_cannot_be_answered(server: Server, body: bytes, error: str) -> None:
    reply = server.post(PREDICT, body)
    assert (reply.status, reply.json) == (400, {"error": error})


def test_a_body_that_is_not_json_is_said_before_the_missing_model(server: Server) -> None:
    reply = server.post("/v1/models/x:predict", b"{")
    assert reply.status == 400
    assert reply.error.startswith("JSON Parse error:")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"hello", "the content (5 bytes) is not an image that can be read: expected JPEG, PNG, "),
        (b"", "the content (0 bytes) is empty: expected JPEG, PNG, "),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
         "the content (49 bytes) is an EPS (PostScript) file, which is not read: expected JPEG, PNG, "),
        (encoded(picture(101, 100)), "the image has 100×101 pixels, more than this server's limit of 10000"),
    ],
)  # fmt: skip
def test_images_that_cannot_be_read(server: Server, data: bytes, error: str) -> None:
    reply = server.post(PREDICT, {"inputs": b64(data)})
    assert reply.status == 400
    assert reply.error.startswith(error)


def test_a_truncated_image_is_the_clients_mistake(server: Server) -> None:
    whole = encoded(picture(60, 60), "JPEG")
    reply = server.post(PREDICT, {"inputs": b64(whole[: len(whole) // 2])})
    assert reply.status == 400
    assert "cannot be decoded as JPEG" in reply.error


def test_a_model_that_fails_is_not_the_clients_mistake(server: Server) -> None:
    reply = server.post(PREDICT, {"inputs": b64(encoded(picture(13, 13)))})
    assert (reply.status, reply.json) == (500, {"error": "the model failed: RuntimeError"})


def test_base64_forgives_line_breaks_and_missing_padding(server: Server) -> None:
    text = base64.encodebytes(encoded(IMAGE)).decode()
    for variant in (text, text.replace("\n", ""), text.replace("\n", "").rstrip("="), text.replace("\n", "\r\n")):
        reply = server.post(PREDICT, {"instances": [{"b64": variant}]})
        check(reply.json["predictions"][0], IMAGE)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json", "x"])
def test_content_type_is_ignored(server: Server, kind: str) -> None:
    assert server.post(PREDICT, {"instances": [PICTURE]}, Content_Type=kind).status == 200


def test_gzip_is_inflated_up_to_the_limit(server: Server) -> None:
    body = json.dumps({"instances": [PICTURE]}).encode()
    check(server.post(PREDICT, gzip.compress(body), Content_Encoding="gzip").json["predictions"][0], IMAGE)
    cases = [
        (
            gzip.compress(b" " * (2 << 20)),
            "gzip",
            413,
            "the inflated body is larger than this server's limit of 1048576",
        ),
        (gzip.compress(body)[:-9], "gzip", 400, "the body is not valid gzip: it is cut off"),
        (b"not gzip", "gzip", 400, "the body is not valid gzip: "),
        (body, "br", 415, "Content-Encoding 'br' is not supported"),
    ]
    for data, encoding, status, error in cases:
        reply = server.post(PREDICT, data, Content_Encoding=encoding)
        assert reply.status == status
        assert reply.error.startswith(error)


def test_status_lists_versions_as_strings(server: Server) -> None:
    ok = {"error_code": "OK", "error_message": ""}
    both = [{"version": v, "state": "AVAILABLE", "status": ok} for v in ("7", "9")]
    assert server.get("/v1/models/m").json == {"model_version_status": both}
    assert server.get("/v1/models/m/versions/0").json == {"model_version_status": both}
    assert server.get("/v1/models/m/versions/7").json == {"model_version_status": both[:1]}
    assert server.get("/v1/models/m/labels/stable").json == {"model_version_status": both[:1]}


def test_metadata_has_signature_def_twice_and_sizes_as_strings(server: Server) -> None:
    answer = server.get("/v1/models/m/labels/stable/metadata").json
    assert answer["model_spec"] == {"name": "m", "signature_name": "", "version": "7"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    signature = signatures["serving_default"]
    dims = [{"size": size, "name": ""} for size in ("-1", "-1", "-1", "3")]
    assert signature["inputs"] == {
        "input_tensor": {
            "dtype": "DT_UINT8",
            "tensor_shape": {"dim": dims, "unknown_rank": False},
            "name": "input_tensor:0",
        }
    }
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["defaults"] == {}
    assert signatures["image_bytes"]["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    shapes = {
        name: [int(dim["size"]) for dim in info["tensor_shape"]["dim"]] for name, info in signature["outputs"].items()
    }
    assert shapes == {
        "detection_boxes": [-1, MAX_DETECTIONS, 4],
        "detection_classes": [-1, MAX_DETECTIONS],
        "detection_scores": [-1, MAX_DETECTIONS],
        "num_detections": [-1],
    }


def test_every_number_of_an_answer_is_seen_to_be_a_float(server: Server) -> None:
    text = server.post(PREDICT, {"instances": [PICTURE]}).body.decode()
    numbers = re.findall(r"[-+.\w]*\d[-+.\w]*", re.sub(r'"[^"]*"', "", text))
    assert len(numbers) == MAX_DETECTIONS * 6 + 1
    assert all("." in number or "e" in number for number in numbers)


def test_floats_are_written_so_that_they_are_read_back_the_same() -> None:
    values = np.concatenate(
        [
            np.random.default_rng(0).integers(0, 2**32, 5000, dtype=np.uint64).astype(np.uint32).view(np.float32),
            np.array([0, -0.0, 1, 1e-45, 3.4028235e38, 1e7, 123456.7, math.inf, -math.inf, math.nan], np.float32),
        ]
    )
    text = wire.write_floats(values)
    again = np.array(json.loads(text), np.float64).astype(np.float32)
    np.testing.assert_array_equal(again, values)
    words = text.strip("[]").split(",")
    assert words[-3:] == ["Infinity", "-Infinity", "NaN"]
    assert all("." in word or "e" in word for word in words[:-3] if word not in ("NaN", "Infinity", "-Infinity"))


def test_nan_and_infinity_are_read() -> None:
    value = wire.parse(b'{"a": [NaN, Infinity, -Infinity, 1.5, "NaN ]"]}')
    assert math.isnan(value["a"][0])
    assert value["a"][1:] == [math.inf, -math.inf, 1.5, "NaN ]"]


def test_brackets_in_strings_are_not_depth() -> None:
    text = "[" * 500 + '\\"' + "{" * 500
    assert wire.parse(json.dumps({"a": text}).encode()) == {"a": text}
    with pytest.raises(RefusedError, match="nested deeper"):
        wire.parse(('{"a": "]]]]]", "b": ' + "[" * 70 + "]" * 70 + "}").encode())


def test_errors_never_repeat_a_clients_megabytes() -> None:
    for value in ("x" * 10**6, [["y" * 10**6] * 50] * 50, {"k" * 10**6: 1}, 10**5000):
        assert len(wire.show(value)) <= 2 * wire.SHOWN + 10


def test_class_numbers_count_from_one_as_label_maps_do(server: Server) -> None:
    answer = server.post(PREDICT, {"instances": [PICTURE]}).json["predictions"][0]
    assert [CLASSES[int(c) - 1] for c in answer["detection_classes"][:2]] == ["cat", "person"]


@pytest.mark.parametrize("shape", [(0,), (3,), (0, 4), (3, 4), (2, 3, 4), (2, 0)])
def test_padding_is_written_as_zeros_of_the_shape(shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, np.float32)
    assert json.loads(wire.write_floats(values)) == values.tolist()
    values[tuple(0 for _ in shape) if values.size else ...] = 0.5
    assert json.loads(wire.write_floats(values)) == values.tolist()
