"""Extensions of Triton: raw binary requests, parameters that are refused, configuration and statistics."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phidet.detections.thresholds import Thresholds
from phidet.serve.configuration import Policy, Source
from serve_server import (
    CLASSES,
    MAX_DETECTIONS,
    Reply,
    Server,
    encoded,
    held,
    model_of,
    one_model,
    picture,
    serving,
    settings_for,
    until,
    write_version,
)

INFER = "/v2/models/m/infer"
HEADER = "Inference-Header-Content-Length"
IMAGE = encoded(picture())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with one_model(tmp_path_factory.mktemp("triton")) as running:
        yield running


def body(count: int = 1, data: bytes = IMAGE, **more: Any) -> dict[str, Any]:
    images = [base64.b64encode(data).decode()] * count
    return {"inputs": [{"name": "image_bytes", "datatype": "BYTES", "shape": [count], "data": images}], **more}


def outputs(reply: Reply) -> dict[str, list[float]]:
    """The tensors of an answer that has them behind its JSON."""
    assert reply.status == 200, reply.body
    length = int(reply.headers[HEADER.lower()])
    at, found = length, {}
    for output in json.loads(reply.body[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = np.frombuffer(reply.body[at : at + size], "<f4").tolist()
        at += size
    assert at == len(reply.body)
    return found


# Raw binary requests


def test_an_image_without_json(server: Server) -> None:
    expected = {output["name"]: output["data"] for output in server.post(INFER, body()).json["outputs"]}
    raw = server.post(INFER, IMAGE, **{HEADER: "0", "Content-Type": "application/octet-stream"})
    assert raw.headers["content-type"] == "application/octet-stream"
    for reply in (
        raw,
        server.post(INFER, gzip.compress(IMAGE), **{HEADER: "0", "Content-Encoding": "gzip"}),
        server.post("/v2/models/m/versions/1/infer", IMAGE, **{HEADER: "0"}),
        server.post(INFER, body(parameters={"binary_data_output": True})),
    ):
        assert {name: pytest.approx(values) for name, values in outputs(reply).items()} == expected


@pytest.mark.parametrize("data", [b"", b"hello", IMAGE[:60], struct.pack("<I", len(IMAGE)) + IMAGE, b"{}"])
def test_what_is_no_image_is_refused_in_words(server: Server, data: bytes) -> None:
    reply = server.post(INFER, data, **{HEADER: "0"})
    assert reply.status == 400
    assert reply.error.startswith(f"{HEADER}: 0 announces one encoded image without JSON: ")


@pytest.mark.parametrize("data", [IMAGE, encoded(picture(), "JPEG"), encoded(picture(), "BMP"), b"[1]"])
def test_an_image_without_the_header_is_told_of_it(server: Server, data: bytes) -> None:
    reply = server.post(INFER, data)
    assert reply.status == 400
    assert reply.error.endswith(f"to send one image as it is, add the header {HEADER}: 0")


# Parameters


@pytest.mark.parametrize(
    ("place", "name", "value", "reason"),
    [
        ("output num_detections", "classification", 2, "read detection_classes and detection_scores"),
        ("output num_detections", "shared_memory_region", "r", "read them in the answer"),
        ("output num_detections", "shared_memory_byte_size", 400, "read them in the answer"),
        ("input image_bytes", "shared_memory_region", "r", "send tensors in the request"),
        ("input image_bytes", "shared_memory_offset", 8, "send tensors in the request"),
        ("the request", "sequence_id", 7, "no state is kept between requests"),
        ("the request", "sequence_start", True, "no state is kept between requests"),
        ("the request", "binary_data_output", 1, "must be true or false, got 1"),
        ("the request", "binary_data_output", "true", 'must be true or false, got "true"'),
        ("output num_detections", "binary_data", "no", 'must be true or false, got "no"'),
    ],
)
def test_parameters_that_cannot_be_followed_are_refused(
    server: Server, place: str, name: str, value: Any, reason: str
) -> None:
    request = body(outputs=[{"name": "num_detections"}], parameters={})
    owner = {"output num_detections": request["outputs"][0], "input image_bytes": request["inputs"][0]}
    owner.get(place, request)["parameters"] = {name: value}
    reply = server.post(INFER, request)
    assert reply.status == 400
    assert reply.error.startswith(f"{place}: the parameter {name} ")
    assert reason in reply.error


def test_parameters_that_ask_for_nothing_or_that_nobody_defined(server: Server) -> None:
    nothing = {"classification": 0, "shared_memory_region": "", "shared_memory_offset": 0, "binary_data": False}
    request = body(
        outputs=[{"name": "num_detections", "parameters": nothing}],
        parameters={"sequence_id": 0, "sequence_end": False, "priority": 3, "timeout": 9, "mine": "x", "none": None},
    )
    request["inputs"][0]["parameters"] = {"shared_memory_region": None, "content_type": "image/png"}
    assert server.post(INFER, request).json["outputs"][0]["data"] == [2.0]


def test_a_request_says_from_which_score_objects_count(server: Server) -> None:
    def count(**parameters: Any) -> float:
        request = body(outputs=[{"name": "num_detections"}], parameters=parameters)
        found: float = server.post(INFER, request).json["outputs"][0]["data"][0]
        return found

    model = model_of(server)
    scores = outputs(server.post(INFER, body(parameters={"binary_data_output": True})))["detection_scores"]
    assert scores[0] > scores[1] > 0
    between = (scores[0] + scores[1]) / 2
    assert (count(), count(score=0), count(score=between), count(score=1)) == (2, 2, 1, 0)
    assert count(score=None) == 2

    # The two objects are of classes 2 and 0.
    try:
        model.thresholds = Thresholds(
            scores=(scores[1] / 2, 1.0, 1.0), measured=(True, True, False), data="val", images=1, iou=0.5
        )
        assert count(score="auto") == 1
        request = body(outputs=[{"name": "detection_classes"}], parameters={"score": "auto"})
        assert server.post(INFER, request).json["outputs"][0]["data"][:2] == [1.0, 0.0], "class 0, counted from 1"
    finally:
        model.thresholds = None
    for score, reason in (("auto", "stores no thresholds"), (2, "in 0…1"), (True, "in 0…1"), ("low", "in 0…1")):
        reply = server.post(INFER, body(parameters={"score": score}))
        assert reply.status == 400
        assert reason in reply.error


# Configuration


def test_the_configuration(tmp_path: Path) -> None:
    for version in (3, 4):
        write_version(tmp_path, version, f"{version}00")
    source = Source("m", tmp_path, Policy(specific=(3, 4)))
    settings = settings_for(
        tmp_path, sources=(source,), limits={"instances": 24},
        batching={"max_batch_size": 4, "max_enqueued_batches": 5, "num_batch_threads": 2, "batch_timeout_micros": 70},
    )  # fmt: skip
    with serving(settings) as server:
        assert server.get("/v2").json["extensions"] == ["binary_tensor_data", "model_configuration", "statistics"]
        config = server.get("/v2/models/m/config").json
        assert config == server.get("/v2/models/m/versions/3/config").json
        assert config["max_batch_size"] == 20, "so many fit into the queue"
        assert config["version_policy"] == {"specific": {"versions": [3, 4]}}
        assert config["dynamic_batching"] == {"preferred_batch_size": [4], "max_queue_delay_microseconds": 70}
        assert config["instance_group"] == [{"name": "m", "kind": "KIND_CPU", "count": 2}]
        assert json.loads(config["parameters"]["class_names"]["string_value"]) == list(CLASSES)
        metadata = server.get("/v2/models/m").json
        # The sizes are those of the metadata without the batch, which perf_analyzer relies on.
        for kind in ("input", "output"):
            described = {
                tensor["name"]: tensor.get("reshape", {"shape": tensor["dims"]})["shape"] for tensor in config[kind]
            }
            assert described == {tensor["name"]: tensor["shape"][1:] for tensor in metadata[f"{kind}s"]}
        assert {tensor["name"]: tensor["dims"] for tensor in config["output"]} == {
            "detection_boxes": [MAX_DETECTIONS, 4],
            "detection_classes": [MAX_DETECTIONS],
            "detection_scores": [MAX_DETECTIONS],
            "num_detections": [1],
        }
        assert all(tensor["optional"] for tensor in config["input"]), "a request has one of them"
        assert server.get("/v2/models/m/versions/9/config").status == 404
        assert server.get("/v2/models/x/config").error == "Servable not found for request: Latest(x)"


@pytest.mark.parametrize(
    ("policy", "named"), [(Policy(latest=2), {"latest": {"num_versions": 2}}), (Policy(), {"all": {}})]
)
def test_the_configuration_names_the_policy(tmp_path: Path, policy: Policy, named: dict[str, Any]) -> None:
    write_version(tmp_path, 1, "100")
    with serving(settings_for(tmp_path, sources=(Source("m", tmp_path, policy),))) as server:
        assert server.get("/v2/models/m/config").json["version_policy"] == named


# Statistics


def statistics(server: Server, path: str = "/v2/models/m/stats") -> list[dict[str, Any]]:
    found = server.get(path).json["model_stats"]
    assert isinstance(found, list)
    return found


def test_statistics_count_requests_images_and_batches(tmp_path: Path) -> None:
    with one_model(tmp_path, batching={"max_batch_size": 2}) as server, ThreadPoolExecutor(1) as pool:
        (before,) = statistics(server)
        assert (before["name"], before["version"], before["last_inference"]) == ("m", "1", 0)
        assert before["execution_count"] == 0, "the trial after loading was no request"
        with held(model_of(server)):
            first = pool.submit(server.post, INFER, body())
            until(lambda: len(model_of(server).batches) == 2)
        assert first.result().status == 200
        assert server.post(INFER, body(3)).status == 200  # batches of 2 and 1
        assert server.post(INFER, body(data=b"x")).status == 400
        assert server.post(INFER, body(data=encoded(picture(13, 13)))).status == 500
        (after,) = statistics(server)
        assert after["inference_count"] == 4
        assert after["execution_count"] == 4, "of which one failed"
        counts = {name: duration["count"] for name, duration in after["inference_stats"].items()}
        assert counts == {
            "success": 2, "fail": 2, "queue": 2, "compute_input": 2, "compute_infer": 2, "compute_output": 2,
            "cache_hit": 0, "cache_miss": 0,
        }  # fmt: skip
        ns = {name: duration["ns"] for name, duration in after["inference_stats"].items()}
        parts = ns["queue"] + ns["compute_input"] + ns["compute_infer"] + ns["compute_output"]
        assert 0 < parts <= ns["success"] + 10, "up to rounding"
        batches = [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in after["batch_stats"]]
        assert batches == [(1, 3), (2, 1)]
        assert after["last_inference"] > 1_700_000_000_000, "milliseconds since 1970"


def test_statistics_of_all_versions_and_models(tmp_path: Path) -> None:
    for name in ("one", "two"):
        for version in (1, 10, 2):
            write_version(tmp_path / name, version, "100")
    sources = tuple(Source(name, tmp_path / name, Policy(latest=2)) for name in ("two", "one"))
    with serving(settings_for(tmp_path, sources=sources)) as server:
        server.post("/v2/models/one/versions/2/infer", body())

        def listed(path: str) -> list[tuple[str, str, int]]:
            return [(s["name"], s["version"], s["inference_count"]) for s in statistics(server, path)]

        assert listed("/v2/models/stats") == [("one", "2", 1), ("one", "10", 0), ("two", "2", 0), ("two", "10", 0)]
        assert listed("/v2/models/one/stats") == [("one", "2", 1), ("one", "10", 0)]
        assert listed("/v2/models/one/versions/2/stats") == [("one", "2", 1)]
        assert server.get("/v2/models/one/versions/1/stats").status == 404
        assert server.get("/v2/models/x/stats").status == 404
        assert server.post("/v2/models/stats", b"").status == 405
