"""Clients that others wrote, unmodified: ovmsclient, requests and curl, tritonclient, schemathesis."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import slowly
from phidet.serve.configuration import Policy, Source
from phidet.serve.server import Network
from serve_server import HTTP, Server, encoded, picture, serving, settings_for, write_version
from test_serve_tfserving import check

ROOT = Path(__file__).parents[1]
CLIENTS = ROOT / ".venv-clients" / "bin"
IMAGE = picture(48, 64)

needs_grpc = pytest.mark.skipif(find_spec("grpc") is None, reason="no grpcio here: pip install 'phidet[grpc]'")
needs_clients = pytest.mark.skipif(not CLIENTS.is_dir(), reason="no clients here: make clients")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("m")
    write_version(base, 7, "800")
    write_version(base, 9, "900")
    network = Network(grpc_port=0) if find_spec("grpc") else HTTP
    with serving(settings_for(base, sources=(Source("m", base, Policy()),)), network=network) as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    path.write_bytes(encoded(IMAGE))
    np.save(f"{path}.npy", IMAGE)
    return path


def run_client(name: str, server: Server, file: Path) -> Any:
    port = server.grpc_port if name.endswith("_grpc.py") else server.port
    command = [str(CLIENTS / "python"), str(ROOT / "tests" / "clients" / name), f"127.0.0.1:{port}", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_clients
def test_ovmsclient(server: Server, file: Path) -> None:
    said = run_client("ovms.py", server, file)
    for name, answer in said["answers"].items():
        check({key: value[0] for key, value in answer.items()}, IMAGE, 0.8 if name == "version" else 0.9)
    fine = {"state": "AVAILABLE", "error_code": 0, "error_message": ""}
    assert said["status"] == {"7": fine, "9": fine}
    assert said["status_of_7"] == {"7": fine}
    signature = said["metadata"]["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["input_tensor"]["dtype"] == "DT_UINT8"
    assert said["missing"].endswith(": Servable not found for request: Latest(nothing)")
    assert "is not an image that can be read" in said["invalid"]


@needs_clients
def test_tritonclient(server: Server, file: Path) -> None:
    said = run_client("triton.py", server, file)
    for name, answer in said["answers"].items():
        if name == "mixed":
            assert list(answer) == ["num_detections", "detection_boxes"]
        elif name == "chosen":
            assert list(answer) == ["detection_boxes"]
            boxes = said["answers"]["binary"]["detection_boxes"]
            np.testing.assert_array_equal(np.float32(answer["detection_boxes"]), np.float32(boxes))
        else:
            check({key: value[0] for key, value in answer.items()}, IMAGE, 0.8 if name == "version" else 0.9)
    assert said["id"] == "r1"
    assert said["live"] is True
    assert said["ready"] is True
    assert said["model_ready"] == [True, True, False]
    assert said["server"]["extensions"] == ["binary_tensor_data", "model_configuration", "statistics"]
    assert said["config"]["name"] == "m"
    assert said["statistics"]["model_stats"][0]["inference_count"] >= 1
    assert said["refused"].startswith("output detection_scores: the parameter classification is not supported")
    assert said["model"]["versions"] == ["7", "9"]
    assert said["index"][0] == {"name": "m", "version": "7", "state": "READY", "reason": ""}
    assert said["missing"] == "Servable not found for request: Latest(nothing)"


@needs_clients
@needs_grpc
def test_ovmsclient_over_grpc_gets_what_http_says(server: Server, file: Path) -> None:
    said, wanted = run_client("ovms_grpc.py", server, file), run_client("ovms.py", server, file)
    # Numbers are float32 in both; those of JSON are read as float64, so they are compared as float32, bit for bit.
    assert said["answers"].keys() == wanted["answers"].keys()
    for name, answer in wanted["answers"].items():
        assert_same(said["answers"][name], answer)
    assert said["status"] == wanted["status"]
    assert said["status_of_7"] == wanted["status_of_7"]
    assert said["metadata"]["model_version"] == 9
    assert said["metadata"]["inputs"]["input_tensor"]["dtype"] == "DT_UINT8"
    assert "Servable not found for request: Latest(nothing)" in said["missing"]
    assert "is not an image that can be read" in said["invalid"]
    assert "must be DT_UINT8 or DT_STRING, got DT_FLOAT" in said["floats"]


@needs_clients
@needs_grpc
def test_tritonclient_over_grpc_gets_what_http_says(server: Server, file: Path) -> None:
    said, wanted = run_client("triton_grpc.py", server, file), run_client("triton.py", server, file)
    latest = wanted["answers"]["binary"]
    for name, answer in said["answers"].items():
        chosen = {"detection_boxes": latest["detection_boxes"]}
        over_http = {"version": wanted["answers"]["version"], "chosen": chosen}.get(name, latest)
        assert_same(answer, over_http)
    assert said["id"] == "r1"
    assert "is not an image that can be read" in said["stream"].pop(3)["error"]
    assert [answer.pop("id") for answer in said["stream"]] == ["0", "1", "2", "4", "5"]
    assert len(said["asyncio"]) == 8 + 3
    for answer in [*said["stream"], *said["asyncio"]]:
        assert_same(answer, latest)
    assert (said["live"], said["ready"], said["model_ready"]) == (True, True, [True, True])
    assert said["server"] == wanted["server"]
    assert said["model"]["versions"] == wanted["model"]["versions"]
    assert said["config"]["config"]["max_batch_size"] == wanted["config"]["max_batch_size"]
    assert said["statistics"]["model_stats"][0]["version"] == "7"
    assert said["index"]["models"][0] == {"name": "m", "version": "7", "state": "READY"}
    assert said["missing"] == ["StatusCode.NOT_FOUND", "Servable not found for request: Latest(nothing)"]
    assert said["invalid"][0] == said["refused"][0] == "StatusCode.INVALID_ARGUMENT"
    assert said["refused"][1].startswith("output detection_scores: the parameter classification is not supported")
    assert said["load"][0] == "StatusCode.UNIMPLEMENTED"


def assert_same(found: Any, wanted: Any) -> None:
    """Arrays by name, equal to the last bit of float32."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.array(found[name], np.float32).tobytes() == np.array(value, np.float32).tobytes(), name


@needs_clients
def test_requests_as_the_resnet_example_does(server: Server, file: Path) -> None:
    said = run_client("resnet_example.py", server, file)
    check(said["prediction"], IMAGE)
    assert said["seconds"] > 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl_with_the_line_that_the_page_shows(server: Server, file: Path) -> None:
    line = (
        f"""(printf '{{"instances":[{{"b64":"'; base64 < '{file}' | tr -d '\\n'; printf '"}}]}}') | """
        f"curl -sf --data-binary @- {server.url}/v1/models/m:predict"
    )
    done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=600, check=True)
    check(json.loads(done.stdout)["predictions"][0], IMAGE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl_waits_for_100_continue(server: Server, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"instances": [{"input_tensor": picture(200, 400).tolist()}]}))
    assert body.stat().st_size > 1 << 20, "curl asks first only above a megabyte"
    command = ["curl", "-sf", "-d", f"@{body}", f"{server.url}/v1/models/m:predict"]
    done = subprocess.run(command, capture_output=True, timeout=600, check=True)
    check(json.loads(done.stdout)["predictions"][0], picture(200, 400))


@needs_clients
@pytest.mark.parametrize("phases", ["fuzzing", *slowly("coverage,stateful")])
@pytest.mark.repeated
def test_schemathesis_finds_no_server_error_and_no_answer_that_is_not_described(
    server: Server, phases: str, tmp_path: Path
) -> None:
    command = [
        str(CLIENTS / "schemathesis"), "run", f"{server.url}/openapi.json", "--phases", phases,
        "--max-examples", "8", "--seed", "1", "--workers", "1",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        "--suppress-health-check", "all", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"\d+ generated.*?(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 50, "it did ask"
