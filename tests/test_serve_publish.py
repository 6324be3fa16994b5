"""Publishing real models and serving them from the command line; and what happens when either is killed."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from conftest import randomise
from phidet import create_model
from phidet.cli.main import main
from phidet.core.errors import CheckpointError
from phidet.detections.boxes import xyxy_to_yxyx
from phidet.detections.settings import PostprocessSettings
from phidet.export.onnx_file import build_onnx
from phidet.images.decode import read_image
from phidet.inference.detector import Detector
from phidet.serve.models import publish as publishing
from phidet.serve.models.folders import version_folders
from phidet.serve.models.publish import publish
from phidet.weights.native import save_model
from ports import reserved_port
from serve_process import SOURCE, client, command_line_server
from serve_server import b64, encoded, picture, until

CLASSES = ["cell", "platelet"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small exported model that says something."""
    torch.manual_seed(0)
    network = create_model("efficientdet-lite0", class_names=CLASSES, image_size=128)
    randomise(network)
    folder = tmp_path_factory.mktemp("model")
    save_model(network, folder / "best.safetensors")
    (folder / "best.onnx").write_bytes(build_onnx(network.eval()).SerializeToString())
    (folder / "best.md").write_text("# A card in words\n")
    return folder / "best.onnx"


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_versions_follow_each_other_with_model_and_cards(model: Path, tmp_path: Path) -> None:
    base = tmp_path / "models" / "person"
    assert publish(model, base) == base / "1"
    assert publish(model.parent, base) == base / "2", "a run's folder"
    (base / "00041").mkdir()
    assert publish(model, base).name == "42"
    assert everything_in(base / "1") == ["card.json", "card.md", "model.onnx"]
    assert (base / "1" / "model.onnx").read_bytes() == model.read_bytes()
    assert (base / "1" / "card.md").read_text() == "# A card in words\n"
    card = json.loads((base / "1" / "card.json").read_text())
    assert card["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert card["bytes"] == model.stat().st_size
    assert card["class_names"] == CLASSES
    assert card["image_size_hw"] == [128, 128]
    assert card["published_from"] == "best.onnx"
    assert card["config"]["backbone"]["architecture"] == "efficientnet-lite"
    assert (base / "1").stat().st_mode & 0o777 == 0o755, "the server may run as somebody else"


def test_publishers_at_the_same_time_get_a_version_each(model: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        versions = list(pool.map(lambda _: int(publish(model, tmp_path / "m").name), range(6)))
    assert sorted(versions) == [1, 2, 3, 4, 5, 6]
    assert sorted(version_folders(tmp_path / "m")) == [1, 2, 3, 4, 5, 6]
    assert not list((tmp_path / "m").glob(".*"))


def test_what_cannot_be_served_is_not_published(model: Path, tmp_path: Path) -> None:
    weights = model.with_name("best.safetensors")
    with pytest.raises(CheckpointError, match=rf"best.safetensors is not an exported model: 'phidet export {weights}'"):
        publish(weights, tmp_path / "m")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(model.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"damaged.onnx cannot be loaded"):
        publish(damaged, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_full_disk_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20));"
        "from phidet.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "publish", str(model), str(tmp_path / "m")],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": SOURCE}, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr == f"phidet: cannot publish to {tmp_path}/m: File too large. Nothing was changed\n"
    assert everything_in(tmp_path / "m") == []


def test_a_killed_publisher_leaves_no_version(model: Path, tmp_path: Path) -> None:
    base = tmp_path / "m"
    script = (
        "import os, sys, time; from phidet.serve.models import publish;"
        "publish._write = lambda *_: (print('in the middle', flush=True), time.sleep(60));"
        "publish.publish(sys.argv[1], __import__('pathlib').Path(sys.argv[2]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(model), str(base)],
        stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": SOURCE},
    )  # fmt: skip
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == b"in the middle\n"
        process.kill()
    (left,) = base.iterdir()
    assert everything_in(left) == ["model.onnx"]
    assert version_folders(base) == {}
    assert publish(model, base).name == "1"
    assert left.exists(), "perhaps another publisher's, who is at work"
    long_ago = time.time() - publishing._ABANDONED_SECONDS - 1
    os.utime(left, (long_ago, long_ago))
    assert publish(model, base).name == "2"
    assert everything_in(base / "2") == everything_in(base / "1")
    assert not left.exists()


# The command line


@pytest.fixture(scope="session")
def base(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "m"
    publish(model, folder)
    return folder


def test_the_served_answer_is_the_detectors_and_needs_no_pytorch(model: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('the server imported torch')")
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('the server imported torchvision')")
    images = [encoded(picture(90, 120, 1), "JPEG"), encoded(picture(200, 70, 2), "PNG")]
    log = tmp_path / "log"
    flags = ("--score", "0.01", "--max_detections", "20")
    with (
        log.open("wb") as out,
        command_line_server(base, *flags, path=f"{tmp_path}:{SOURCE}", stdout=out) as (process, port),
    ):  # fmt: skip
        reply = client(port).post("/v1/models/m:predict", {"instances": [b64(data) for data in images]})
        metadata = client(port).get("/v2/models/m").json
        process.send_signal(signal.SIGTERM)
        assert process.wait(600) in (0, -signal.SIGTERM)
    assert metadata["parameters"] == {"class_names": CLASSES, "image_size_hw": [128, 128]}
    assert metadata["platform"] == "phidet_onnxruntime"
    settings = PostprocessSettings(score=0.01, max_detections=20)
    found = Detector(model).detect([read_image(data) for data in images], settings)
    assert any(len(one.scores) for one in found)
    sizes_hw = [(90, 120), (200, 70)]
    for answer, one, (height, width) in zip(reply.json["predictions"], found, sizes_hw, strict=True):
        n = len(one.scores)
        assert answer["num_detections"] == n
        boxes = xyxy_to_yxyx(one.boxes_xyxy) / np.float32([height, width, height, width])
        np.testing.assert_allclose(answer["detection_boxes"][:n], boxes, atol=1e-5)
        np.testing.assert_allclose(answer["detection_scores"][:n], one.scores, atol=1e-5)
        np.testing.assert_array_equal(answer["detection_classes"][:n], one.class_ids + 1)
        assert len(answer["detection_scores"]) == 20
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["status"] for e in entries if e["path"] == "/v1/models/m:predict"] == [200]


def test_kill_9_and_restart_under_load(base: Path) -> None:
    body = {"instances": [b64(encoded(picture(90, 120)))]}
    stop = threading.Event()
    statuses: list[int] = []

    def keep_asking() -> None:
        while not stop.is_set():
            try:
                statuses.append(client(port).post("/v1/models/m:predict", body).status)
            except (OSError, HTTPException):
                statuses.append(0)  # nobody there
                stop.wait(0.05)

    threads = [threading.Thread(target=keep_asking) for _ in range(4)]
    with reserved_port() as port:
        try:
            [thread.start() for thread in threads]
            for _ in range(2):
                with command_line_server(base, port=port, stdout=subprocess.DEVNULL) as (process, _):
                    before = statuses.count(200)
                    until(lambda before=before: statuses.count(200) >= before + 10)
                    process.kill()
                    process.wait()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert set(statuses) <= {0, 200, 404, 503}, "404 and 503 while it loads"


def test_a_full_disk_under_the_log_does_not_stop_the_server(base: Path) -> None:
    with Path("/dev/full").open("wb") as full, command_line_server(base, stdout=full, stderr=full) as (_, port):
        body = {"instances": [b64(encoded(picture(90, 120)))]}
        assert [client(port).post("/v1/models/m:predict", body).status for _ in range(3)] == [200] * 3


def test_a_log_that_nobody_reads_does_not_stop_the_server(base: Path) -> None:
    """More lines than a pipe holds; and then the reader leaves."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with command_line_server(base, **pipes) as (process, port):
        asker = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        for _ in range(1500):
            asker.request("GET", "/v2/health/live?" + "x" * 200)
            assert asker.getresponse().read() == b'{"live":true}'
        assert process.stdout is not None
        assert b'"path": "/v2/health/' in process.stdout.readline()
        process.stdout.close()
        for _ in range(50):
            asker.request("GET", "/v2/health/live")
            assert asker.getresponse().read() == b'{"live":true}'
        asker.close()
        process.terminate()
        said = process.communicate()[1].decode()
    assert said.count("the access log cannot be written any more: Broken pipe") == 1
    assert "Traceback" not in said


def test_what_does_not_load_without_its_neighbours_is_not_published(model: Path, tmp_path: Path) -> None:
    graph = onnx.load(model)
    source = tmp_path / "split.onnx"
    onnx.save(graph, source, save_as_external_data=True, location="weights.bin")
    Detector(source).close()
    with pytest.raises(CheckpointError, match=r"split.onnx does not work once it is copied, so nothing was published"):
        publish(source, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_corrupt_file_on_disk_does_not_replace_what_answers(base: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    publish(model, folder)
    with command_line_server(folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as (_, port):
        part = folder / ".part"
        part.mkdir()
        data = bytearray(model.read_bytes())
        data[len(data) // 3 : len(data) // 3 + 4000] = os.urandom(4000)
        (part / "model.onnx").write_bytes(data[: len(data) // 2])
        part.rename(folder / "2")
        until(lambda: len(client(port).get("/v1/models/m").json["model_version_status"]) == 2)
        until(lambda: client(port).get("/v1/models/m/versions/2").json["model_version_status"][0]["state"] == "END")
        failed = client(port).get("/v1/models/m/versions/2").json["model_version_status"][0]["status"]
        assert "model.onnx cannot be loaded" in failed["error_message"]
        body = {"instances": [b64(encoded(picture(90, 120)))]}
        assert client(port).post("/v1/models/m:predict", body).status == 200


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ([], "expected one of --model_base_path FOLDER and --model_config_file FILE"),
        (["--model_base_path", "nowhere"],
         "model default: there is no folder nowhere; 'phidet publish MODEL nowhere' makes it and its first version"),
        (["--model_base_path", ".", "--model_name", "a/b"],
         "a model's name must be printable and have neither '/' nor ':', got 'a/b'"),
        (["--model_base_path", ".", "--max_body_bytes", "0"], "limit body_bytes must be above 0, got 0"),
        (["--model_base_path", ".", "--file_system_poll_wait_seconds", "-1"],
         "file_system_poll_wait_seconds must be 0 (look once) or more, got -1.0"),
        (["--model_base_path", ".", "--runtime", "litert", "--device", "cuda"],
         "litert is for processors: leave it out for cuda, or leave out cuda"),
        (["--model_config_file", "nowhere"], "cannot read nowhere: No such file or directory"),
        (["--model_base_path", ".", "--host", "256.0.0.1"],
         "cannot listen on 256.0.0.1:8501 (Name or service not known): choose another --rest_api_port or --host"),
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line(
    flags: list[str], error: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *flags]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"phidet: {error}"


def test_a_score_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--model_base_path", ".", "--score", "2"])
    assert ended.value.code == 2
    assert "argument --score: expected a number in 0…1, got '2'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_new_version_each_second_under_load_fails_no_request(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    publish(model, folder)
    body = {"instances": [b64(encoded(picture(480, 640), "JPEG"))]}
    stop = threading.Event()
    statuses: list[int] = []
    memory: list[float] = []

    def keep_asking() -> None:
        while not stop.is_set():
            statuses.append(client(port).post("/v1/models/m:predict", body).status)

    with command_line_server(folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as (process, port):
        threads = [threading.Thread(target=keep_asking) for _ in range(16)]
        [thread.start() for thread in threads]
        for _ in range(60):
            time.sleep(1)
            publish(model, folder)
            memory.append(int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096 / 2**20)
        stop.set()
        [thread.join() for thread in threads]
        loads = client(port).get("/monitoring/prometheus/metrics").body.decode().splitlines()
    print(len(statuses), "answers;", [line for line in loads if line.startswith("phidet_model_loads_total")])
    print("memory in MiB:", [round(m) for m in memory[::6]])
    assert set(statuses) == {200}
    assert max(memory[30:]) < 1.25 * max(memory[10:30])
