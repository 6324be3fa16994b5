"""No command, and no package behind one, looks up or contacts an address that the user did not give.

Run by `make test` in `.venv`, and in `.venv-runtimes`, which has OpenVINO and LiteRT.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pytest
from PIL import Image

import data_factory
import doctor_data
import export_models
import test_classify
import test_synthesize
from conftest import slowly
from network_trace import STRACE, Trace, trace
from phidet.cli.main import COMMANDS, main
from phidet.weights.native import save_model
from ports import reserved_port

pytestmark = pytest.mark.skipif(STRACE is None, reason="strace is not installed")
SOURCE = Path(__file__).parents[1] / "src" / "phidet"

TRAIN = "--epochs 1 --batch-size 2 --workers 1 --accelerator cpu"
LINES = {
    "align": ("align photo.png photo.png -m tiny.onnx --score 0.001 --least-share 0.9 --out aligned",),
    "detect": (
        "detect photo.png -m tiny.onnx --save images,json,csv,coco,yolo,crops --out found",
        "detect photo.png --json",
        "detect photo.png -m tiny.safetensors --runtime torch --json",
    ),
    "batch": ("batch data/train batched -m tiny.onnx --part-size 2 --workers 1",),
    "track": ("track photo.png --fps 5 -m tiny.onnx --save video,json,csv,mot,coco,heat --out tracks",),
    "doctor": ("doctor data --out doctor",),
    "train": (
        f"train data --model tiny.safetensors --val-split none --out run {TRAIN}",
        f"train folders --task classify --model classifier.safetensors --out classes {TRAIN}",
    ),
    "tune": (
        f"tune data -m tiny.safetensors --val-split train --runs 2 --search learning_rate=0.01 --out tuned {TRAIN}",
    ),
    "sample": ("sample generator.safetensors --out grid.png",),
    "synthesize": ("synthesize scenes --from crops --class square --count 2 --out made",),
    "label": ("label data/train -m tiny.onnx --to coco yolo cvat label-studio --out labels",),
    "eval": ("eval tiny.onnx data --out eval",),
    "info": ("info tiny.safetensors", "info --graph bifpn --out bifpn.svg"),
    "convert": ("convert tiny.safetensors tiny.pth --to effdet",),
    "convert-data": ("convert-data data coco --to coco", "convert-data data records --to tfrecord"),
    "bench": ("bench tiny.onnx --runs 1 --batch 1",),
    "export": ("export tiny.safetensors -o a.onnx", "export tiny.safetensors --int8 --calibrate data -o b.onnx"),
    "explain": ("explain tiny.safetensors photo.png",),
    "env": ("env",),
    "completion": ("completion bash",),
    "publish": ("publish tiny.onnx published",),
    "scale-search": ("scale-search compound --step 0.5 --tolerance 0.5",),
}
"""What each command is asked to do; ``serve`` has a test of its own."""
OPENVINO = (
    "export tiny.safetensors --to openvino -o tiny.xml",
    "detect photo.png -m tiny.xml --json",
    "bench tiny.xml --runs 1 --batch 1",
    "eval tiny.onnx data --runtime openvino",
)
LITERT = (
    "export tiny.safetensors --to tflite -o tiny.tflite",
    "detect photo.png -m tiny.tflite --json",
    "bench tiny.tflite --runs 1 --batch 1",
)
ADDRESSES = {
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://hls.phidet.example/a.ts\n#EXT-X-ENDLIST\n",
    "session.mp4": "v=0\no=- 0 0 IN IP4 192.0.2.7\ns=x\nc=IN IP4 192.0.2.7\nt=0 0\nm=video 5004 RTP/AVP 33\n",
    "concat.mkv": "ffconcat version 1.0\nfile 'http://concat.phidet.example/a.mp4'\n",
    "dash.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="1"><BaseURL>http://dash.phidet.example/a.mp4</BaseURL></Representation></AdaptationSet>'
    "</Period></MPD>",
    "redirect.wmv": "[Reference]\r\nRef1=http://asx.phidet.example/v.asf\r\n",
    "redirect.mov": "RTSPtext\nrtsp://rtsp.phidet.example/a",
}
"""Files that FFmpeg takes for lists of addresses; called as videos are."""
OWN_FILES = re.compile(r"\.cache/(phidet|matplotlib|torch)|\.config/matplotlib|\.triton")
"""What may come into being in a home directory: caches without an identifier of the machine or its user."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models, data and a photo, and a home directory in it."""
    folder = tmp_path_factory.mktemp("privacy")
    (folder / "home").mkdir()
    save_model(export_models.some_model(), folder / "tiny.safetensors")
    save_model(test_classify.tiny(), folder / "classifier.safetensors")
    save_model(test_synthesize.network(), folder / "generator.safetensors")
    assert main(["export", str(folder / "tiny.safetensors")]) == 0
    assert main(["publish", str(folder / "tiny.onnx"), str(folder / "served")]) == 0
    Image.fromarray(export_models.picture(128, 160)).save(folder / "photo.png")
    data_factory.coco(folder / "data")
    scenes = {
        "train": [test_synthesize.scene(i) for i in range(8)],
        "val": [test_synthesize.scene(i) for i in range(20, 24)],
    }
    doctor_data.coco(folder / "scenes", scenes, test_synthesize.NAMES)
    label = folder / "data" / "annotations" / "instances_train.json"
    label.write_text(label.read_text().replace('"ant"', '"bolt"'))
    test_classify.write_pictures(folder / "folders", 4)
    return folder


IN_TURN = """
import sys
from phidet.cli.main import main
for line in sys.argv[1:]:
    if code := main(line.split()):
        sys.exit(f"{line}: {code}")
"""


def phidet(work: Path, line: str, **environment: str) -> Trace:
    return trace([sys.executable, "-m", "phidet.cli.main", *line.split()], work / "home", **environment)


def in_turn(work: Path, lines: Iterable[str]) -> Trace:
    """Several commands in one process: importing PyTorch takes longer than most of them."""
    return trace([sys.executable, "-c", IN_TURN, *lines], work / "home")


def check_nothing_was_sent(result: Trace, home: Path) -> None:
    assert result.done.returncode == 0, result.done.stderr
    assert result.contacts == set()
    files = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    assert [file for file in files if not OWN_FILES.match(file)] == []


def test_every_command_is_here() -> None:
    assert {*LINES, "serve"} == COMMANDS.keys()


def test_commands_contact_nobody(work: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(work, tmp_path / "work")  # the next test writes to the same folders
    check_nothing_was_sent(in_turn(copy, chain.from_iterable(LINES.values())), copy / "home")


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for lines in LINES.values() for line in lines])
def test_a_command_alone_contacts_nobody(line: str, work: Path) -> None:
    check_nothing_was_sent(phidet(work, line), work / "home")


def test_a_video_contacts_nobody(work: Path) -> None:
    film = pytest.importorskip("test_video", exc_type=ImportError).film
    film(work / "film.mp4")
    check_nothing_was_sent(phidet(work, "detect film.mp4 -m tiny.onnx --out found"), work / "home")


# litert_torch converts by JAX, which takes a minute to load and trace under strace.
@pytest.mark.parametrize("package", ["openvino", *slowly("litert_torch")])
def test_another_runtime_contacts_nobody(package: str, work: Path) -> None:
    pytest.importorskip(package, reason="run in .venv-runtimes", exc_type=ImportError)
    check_nothing_was_sent(in_turn(work, {"openvino": OPENVINO, "litert_torch": LITERT}[package]), work / "home")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_server_contacts_nobody(runtime: str, work: Path) -> None:
    if find_spec(runtime) is None:
        pytest.skip("run in .venv-runtimes")
    script = str(Path(__file__).with_name("serve_and_stop.py"))
    check_nothing_was_sent(trace([sys.executable, script, str(work / "served"), runtime], work / "home"), work / "home")


def test_the_server_contacts_nobody_but_a_collector_that_it_is_told(work: Path) -> None:
    """With gRPC, and with variables that would send traces elsewhere if they were heeded."""
    for package in ("grpc", "opentelemetry"):
        pytest.importorskip(package, reason="no grpcio or opentelemetry here: pip install 'phidet[grpc,otel]'")
    command = [sys.executable, str(Path(__file__).with_name("serve_and_stop.py")), str(work / "served"), "onnxruntime"]
    variables = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://variable.phidet.example:4318",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://variable.phidet.example:4318",
    }
    with reserved_port() as port:
        check_nothing_was_sent(trace([*command, "--port", str(port)], work / "home", **variables), work / "home")
        told = ("--port", str(port), "--trace_address", "http://collector.phidet.example:4318")
        result = trace([*command, *told], work / "home", NO_PROXY="*", **variables)
    assert result.done.returncode == 0, result.done.stderr
    assert result.contacts == {"collector.phidet.example"}


def test_training_on_several_devices_contacts_nobody(work: Path) -> None:
    line = f"train data --model tiny.safetensors --val-split none --out two {TRAIN} --devices 2"
    with reserved_port() as port:  # Lightning would ask for a free one, and use it a while later
        result = phidet(work, line, MASTER_PORT=str(port))
    assert result.done.returncode == 0, result.done.stderr
    # PyTorch asks what 127.0.0.1 is called, for a message that it does not print (c10d's formatSockAddr).
    assert result.contacts <= {"1.0.0.127.in-addr.arpa"}


def test_addresses_in_files_are_not_followed(work: Path) -> None:
    folder = work / "addresses"
    folder.mkdir()
    for name, content in ADDRESSES.items():
        (folder / name).write_text(content)
    result = phidet(work, f"detect {folder} -m tiny.onnx --json")
    assert result.done.returncode == 3, "none of them is a video"
    assert result.contacts == set()
    data_factory.coco(work / "web")
    label = work / "web" / "annotations" / "instances_train.json"
    label.write_text(
        label.read_text().replace('"file_name"', '"coco_url": "http://coco.phidet.example/a.jpg", "file_name"')
    )
    (work / "web" / "train" / "one.png").unlink()
    assert phidet(work, "doctor web").contacts == set()


def test_an_address_that_the_user_gives_is_looked_up_and_no_other(work: Path) -> None:
    result = phidet(work, "detect http://pictures.phidet.example/a.jpg", NO_PROXY="*")
    assert result.done.returncode == 5
    assert "cannot fetch http://pictures.phidet.example/a.jpg" in result.done.stderr
    assert result.contacts == {"pictures.phidet.example"}
    assert phidet(work, "detect http://pictures.phidet.example/a.jpg --offline").contacts == set()


def test_a_package_imported_before_phidet_is_told_to_stop(work: Path) -> None:
    """ONNX Runtime begins to report when it is imported; what phidet's sessions would report can still be stopped."""
    code = "import onnxruntime as o; o.disable_telemetry_events = lambda: print('stopped'); import phidet"
    result = trace([sys.executable, "-c", code], work / "elsewhere", ORT_DISABLE_TELEMETRY="1")
    assert result.done.stdout == "stopped\n"


def test_contacts_are_seen_in_native_code_too(work: Path) -> None:
    """The test of the test: a look-up behind Python's back, and packets by both versions of the Internet Protocol."""
    code = (
        "import ctypes, contextlib, socket\n"
        "ctypes.CDLL(None).gethostbyname(b'reports.phidet.example')\n"
        "with contextlib.suppress(OSError): socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 80))\n"
        "with contextlib.suppress(OSError): socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)"
        ".sendto(b'x', ('2001:db8::1', 81))\n"
        "socket.create_server(('127.0.0.1', 0))"
    )
    result = trace([sys.executable, "-c", code], work / "home")
    assert result.contacts == {"reports.phidet.example", "192.0.2.1:80", "2001:db8::1:81"}


def test_the_servers_page_loads_nothing_from_elsewhere() -> None:
    """Addresses in the page are names of XML's namespaces."""
    pages = [path for path in SOURCE.rglob("*") if path.suffix in {".html", ".js", ".css"}]
    assert pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"""(?:https?:)?//[\w.-]+\.\w[^\s"'<>)]*""", text)) <= {"http://www.w3.org/2000/svg"}
