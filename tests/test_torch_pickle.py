"""Files of ``torch.save``: the tensors are those that PyTorch reads, whatever lies beside them, and no code runs."""

from __future__ import annotations

import argparse
import collections
import copy
import datetime
import io
import json
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phidet.core.errors import CheckpointError
from phidet.weights.read import read_tensors
from phidet.weights.torch_pickle import open_torch_file

CONTAINERS = {"zip": True, "legacy": False}


def saved(content: object, path: Path, zipped: bool = True, protocol: int = 2) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


def equal(ours: Tensor, theirs: Tensor) -> bool:
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.equal(ours, theirs)


# Tensors


def tensors() -> dict[str, Tensor]:
    """All kinds that a state dict may have."""
    base = torch.arange(24.0).reshape(4, 6)
    found = {
        "matrix": base,
        "same storage": base,
        "view": base[1:3, ::2],
        "transposed": base.T,
        "expanded": torch.tensor(7.0).expand(3, 5),
        "scalar": torch.tensor(-1.5),
        "empty": torch.empty(0, 3),
        "parameter": nn.Parameter(torch.ones(2, 2)),
        "frozen": nn.Parameter(torch.arange(3), requires_grad=False),
    }
    for name in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
                 "complex128"):  # fmt: skip
        found[name] = torch.tensor([0, 1, 3]).to(getattr(torch, name))
    return found


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("container", CONTAINERS)
def test_tensors_are_those_that_pytorch_reads(container: str, protocol: int, tmp_path: Path) -> None:
    path = saved(tensors(), tmp_path / "t.pth", CONTAINERS[container], protocol)
    read = read_tensors(path).tensors
    assert list(read) == list(tensors())
    assert [name for name, tensor in tensors().items() if not equal(read[name], tensor)] == []


def test_types_that_have_no_storage_of_their_own(tmp_path: Path) -> None:
    content = {"f8": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn), "u16": torch.tensor([1, 65535]).to(torch.uint16)}
    read = read_tensors(saved(content, tmp_path / "t.pth")).tensors
    assert {name: tensor.dtype for name, tensor in read.items()} == {"f8": torch.float8_e4m3fn, "u16": torch.uint16}
    assert read["f8"].float().tolist() == [1.0, 2.0]
    assert read["u16"].tolist() == [1, 65535]


def test_tensors_with_attributes(tmp_path: Path) -> None:
    marked, parameter = torch.ones(3), nn.Parameter(torch.zeros(2))
    marked.note = "x"  # type: ignore[attr-defined]
    parameter.shard = argparse.Namespace(index=0)  # type: ignore[attr-defined]
    read = read_tensors(saved({"marked": marked, "parameter": parameter}, tmp_path / "t.pth")).tensors
    assert equal(read["marked"], torch.ones(3))
    assert equal(read["parameter"], torch.zeros(2))


def rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """The archive with other contents."""
    with zipfile.ZipFile(path) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, change(name.partition("/")[2], content))
    return path


def test_numbers_of_a_machine_with_the_other_byte_order(tmp_path: Path) -> None:
    path = saved({"a": torch.tensor([1.0, -2.5]), "b": torch.tensor(3, dtype=torch.int16)}, tmp_path / "t.pth")

    def swap(name: str, content: bytes) -> bytes:
        if name == "byteorder":
            return {b"little": b"big", b"big": b"little"}[content]
        size = {8: 4, 2: 2}.get(len(content), 1) if name.startswith("data/") else 1
        return b"".join(content[i : i + size][::-1] for i in range(0, len(content), size))

    read = read_tensors(rewritten(path, swap)).tensors
    assert read["a"].tolist() == [1.0, -2.5]
    assert read["b"].item() == 3


def test_archives_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved({"a": torch.arange(9.0)}, tmp_path / "t.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert equal(read_tensors(path).tensors["a"], torch.arange(9.0))


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    """The state of the optimizer is damaged, and nobody looks at it."""
    path = saved({"state_dict": {"w": torch.ones(4)}, "optimizer": {"exp_avg": torch.full((5,), 2.0)}}, tmp_path / "t")
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<5f", *[2.0] * 5))
    content[at] ^= 255
    path.write_bytes(content)
    assert equal(read_tensors(path).tensors["w"], torch.ones(4))
    at = content.index(struct.pack("<4f", *[1.0] * 4))
    content[at] ^= 255
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged or truncated: Bad CRC-32"):
        read_tensors(path)


# What trainers write beside the weights


@pytest.fixture
def foreign() -> Any:
    """A class of a package that is not installed where the file is read."""
    module = types.ModuleType("absent_package")

    class DictConfig(dict[str, Any]):
        pass

    class Config:
        def __init__(self, **values: Any) -> None:
            self.__dict__.update(values)

    class Slotted:
        __slots__ = ("a",)

        def __getstate__(self) -> tuple[None, dict[str, int]]:
            return None, {"a": 1}

    class Listed(list[int]):
        pass

    for kind in (DictConfig, Config, Slotted, Listed):
        kind.__module__, kind.__qualname__ = "absent_package", kind.__name__
        setattr(module, kind.__name__, kind)
    sys.modules["absent_package"] = module
    yield module
    sys.modules.pop("absent_package", None)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("container", CONTAINERS)
def test_what_lies_beside_the_weights_does_not_matter(
    container: str, protocol: int, foreign: Any, tmp_path: Path
) -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    counted = collections.defaultdict(list)
    counted[foreign.Slotted()].append(pathlib.PurePosixPath("/data"))
    content = {
        "args": argparse.Namespace(lr=0.1, path=pathlib.Path("runs")),
        "metric": np.float64(0.31),
        "history": np.arange(6).reshape(2, 3),
        "best": {"ap": np.float32(0.5), "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)},
        "hyper_parameters": foreign.DictConfig(model=foreign.Config(depth=3)),
        "listed": foreign.Listed([1, 2]),
        "counted": counted,
        "optimizer": optimizer.state_dict(),
        "rng": {"python": random.Random(0).getstate(), "torch": torch.get_rng_state()},
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "frozen": frozenset({1, 2}),
        "complex": 3 + 4j,
        "callback": copy.deepcopy,
        "slice": slice(1, 2),
        "state_dict": {"weight": torch.arange(4.0)},
    }
    path = saved(content, tmp_path / "t.pth", CONTAINERS[container], protocol)
    del sys.modules["absent_package"]
    read = read_tensors(path).tensors
    assert list(read) == ["weight"]
    assert equal(read["weight"], torch.arange(4.0))
    assert "absent_package" not in sys.modules


def test_state_dicts_in_containers_of_foreign_classes(foreign: Any, tmp_path: Path) -> None:
    counted = collections.defaultdict(int, {"w": torch.ones(1)})
    for content in (
        foreign.DictConfig(w=torch.ones(1)),
        counted,
        {"model": foreign.DictConfig(w=torch.ones(1))},
        foreign.Config(epoch=1, model={"w": torch.ones(1)}),
        foreign.Config(ema=foreign.Config(state_dict=collections.OrderedDict(w=torch.ones(1)))),
    ):
        assert read_tensors(saved(content, tmp_path / "t.pth")).tensors == {"w": torch.ones(1)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.tied = self.body[0]
        self.scale = nn.Parameter(torch.full((2,), 3.0))
        self.register_buffer("kept", torch.ones(1))
        self.register_buffer("forgotten", torch.ones(1), persistent=False)
        self.register_parameter("absent", None)
        self.body.register_forward_hook(print)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_whole_model_gives_its_state_dict(container: str, tmp_path: Path) -> None:
    net = Net()
    for content in (net, {"model": net, "epoch": 3}, {"ema": net, "model": Net()}):
        read = read_tensors(saved(content, tmp_path / "t.pth", CONTAINERS[container])).tensors
        expected = net.state_dict()
        assert read.keys() == expected.keys()
        assert all(equal(read[name], tensor) for name, tensor in expected.items())
    assert list(read_tensors(saved(nn.DataParallel(net), tmp_path / "t.pth")).tensors) == [
        f"module.{name}" for name in net.state_dict()
    ]


def test_files_of_python_2(tmp_path: Path) -> None:
    """An OrderedDict has its items as an argument there, and names of the standard library are others."""
    buffer = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, buffer, 2)
    buffer.write(
        b"\x80\x02ccollections\nOrderedDict\n(](](U\x01w"  # OrderedDict, mark, list of one list of two
        b"ctorch._utils\n_rebuild_tensor\n("
        b"(U\x07storagectorch\nFloatStorage\nU\x0199U\x03cpuK\x02NtQ"  # persistent id
        b"K\x00K\x02\x85K\x01\x85tR"  # offset, size, stride
        b"eetR."
    )  # fmt: skip
    pickle.dump(["9"], buffer, 2)
    content = buffer.getvalue().replace(b"U\x0199", b"U\x019")
    path = tmp_path / "t.pth"
    path.write_bytes(content + struct.pack("<q2f", 2, 1.5, -2.0))
    assert read_tensors(path).tensors["w"].tolist() == [1.5, -2.0]


def test_other_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps({}, 2))
        archive.writestr("net/constants.pkl", pickle.dumps((), 2))
        archive.writestr("net/code/__torch__.py", "class Net(Module): ...")
    with pytest.raises(CheckpointError, match=r"t\.pth .*TorchScript"):
        read_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    with pytest.raises(CheckpointError, match=r"t\.pth .*an archive without data\.pkl"):
        read_tensors(path)


# No code runs


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def attacks(mark: str) -> dict[str, bytes]:
    """One program for each instruction that can reach a class, and for names that look like those of tensors."""
    mkdir, argument, state = b"cos\nmkdir\n", text(mark), b"}" + text("a") + b"K\x01s"
    evil = b"cevil_module\nEvil\n"
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x01tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x01\x85K\x01\x85\x89%stR"
    return {
        "GLOBAL REDUCE": mkdir + b"(" + argument + b"tR",
        "STACK_GLOBAL REDUCE": text("os") + text("mkdir") + b"\x93(" + argument + b"tR",
        "INST": b"(" + argument + b"ios\nmkdir\n",
        "OBJ": b"(" + mkdir + argument + b"o",
        "NEWOBJ": evil + b"(" + argument + b"t\x81",
        "NEWOBJ_EX": evil + b"(" + argument + b"t}\x92",
        "NEWOBJ_EX of a function": mkdir + b"(" + argument + b"t}\x92",
        "BUILD": evil + b")\x81" + state + b"b",
        "BUILD slots": evil + b")\x81N" + state + b"\x86b",
        "BUILD of a class": evil + state + b"b",
        "BUILD slots of a class": evil + b"N" + state + b"\x86b",
        "BUILD of a known class": b"ccollections\nOrderedDict\nN}" + text("__init__") + mkdir + b"s\x86b",
        "BUILD of what makes tensors": b"ctorch._utils\n_rebuild_tensor_v2\nN}" + text("__new__") + mkdir + b"s\x86b",
        "BUILD of a type": b"ctorch\nfloat32\n" + state + b"b",
        "BUILD of set": b"cbuiltins\nset\nN" + state + b"\x86b",
        "APPEND": evil + b")\x81" + argument + b"a",
        "APPENDS": evil + b")\x81(" + argument + b"e",
        "ADDITEMS": evil + b")\x81(" + argument + b"\x90",
        "SETITEM": evil + b")\x81" + argument + b"K\x01s",
        "SETITEMS": evil + b")\x81(" + argument + b"K\x01u",
        "as a key": b"}" + evil + b")\x81K\x01s",
        "PERSID": b"Pevil_module\n",
        "BINPERSID": evil + b")RQ",
        "BINPERSID module": b"(" + text("module") + mkdir + text("a") + text("b") + b"tQ(" + argument + b"tR",
        "EXT1": b"\x82\x01)R",
        "EXT2": b"\x83\x01\x01)R",
        "EXT4": b"\x84\x01\x01\x00\x00)R",
        "NEXT_BUFFER": b"\x97\x98",
        "dotted name": text("os") + text("path.os.mkdir") + b"\x93(" + argument + b"tR",
        "through torch": text("torch") + text("os.mkdir") + b"\x93(" + argument + b"tR",
        "a storage's name": b"cevil_module\nFloatStorage\n(" + argument + b"tR",
        "getattr": b"c__builtin__\ngetattr\n(" + mkdir + text("__call__") + b"tR(" + argument + b"tR",
        "eval": b"cbuiltins\neval\n(" + text(f"__import__('os').mkdir({mark!r})") + b"tR",
        "import": b"cbuiltins\n__import__\n(" + text("evil_module") + b"tR",
        "torch.load": b"ctorch\nload\n(" + argument + b"tR",
        "_load_from_bytes": b"ctorch.storage\n_load_from_bytes\n(C\x01xtR",
        "numpy scalar": b"cnumpy._core.multiarray\nscalar\n(" + mkdir + b"tR",
        "_rebuild_from_type_v2": b"ctorch._tensor\n_rebuild_from_type_v2\n(" + mkdir + evil + argument + b"\x85" + state
        + b"tR",
        "_rebuild_parameter": b"ctorch._utils\n_rebuild_parameter\n(" + mkdir + b"\x88)tR(" + argument + b"tR",
        "hooks of a tensor": tensor.replace(b"%s", mkdir + b"(" + argument + b"tR"),
        "call of a tensor": tensor.replace(b"%s", b")") + b"(" + argument + b"tR",
        "call of a type": b"ctorch\nfloat32\n(" + argument + b"tR",
        "state of a tensor": tensor.replace(b"%s", b")") + b"N}" + text("storage") + mkdir + b"s\x86b",
        "tensor of something else": b"ctorch._utils\n_rebuild_tensor_v2\n(" + mkdir + b"K\x00))\x89)tR",
    }  # fmt: skip


WATCH = """
import json, sys
from pathlib import Path
import phidet.weights.read as reader
from phidet.core.errors import CheckpointError
folder, results, events, watching = Path(sys.argv[1]), {}, [], False
HARMLESS = {"open", "object.__getattr__", "object.__setattr__", "sys._getframe", "os.listdir", "builtins.id"}
for path in folder.glob("first-*"):
    try:
        reader.read_tensors(path)  # what Python and PyTorch import at first use is not the file's doing
    except CheckpointError:
        pass

def hook(event, arguments):
    if watching and event not in HARMLESS:
        events.append([watching, event, repr(arguments)[:200]])

sys.addaudithook(hook)
for path in sorted(folder.glob("*.pth")):
    watching = path.name
    try:
        results[path.name] = sorted(reader.read_tensors(path).tensors)
    except CheckpointError as error:
        results[path.name] = str(error)
    watching = False
print(json.dumps([results, events, "evil_module" in sys.modules]))
"""


def watched(folder: Path) -> dict[str, Any]:
    """Reads all files of a folder in a process that notes Python's audit events: calls, imports, processes."""
    for name, zipped in CONTAINERS.items():
        saved({"w": torch.ones(1)}, folder / f"first-{name}", zipped)
    archived(folder / "first-rewritten", pickle.dumps({"x": 1}, 2))
    (folder / "evil_module.py").write_text(f"import os\nos.mkdir({str(folder / 'imported')!r})\n")
    done = subprocess.run(
        [sys.executable, "-c", WATCH, str(folder)], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    results, events, imported = json.loads(done.stdout)
    assert events == []
    assert not imported
    assert not (folder / "imported").exists()
    assert isinstance(results, dict)
    return results


def archived(path: Path, program: bytes) -> None:
    """A file of today's container with ``program`` for its pickle."""
    torch.save({"w": torch.ones(1)}, path)
    rewritten(path, lambda name, content: program if name == "data.pkl" else content)


def test_no_instruction_of_a_pickle_runs_code(tmp_path: Path) -> None:
    """Each attack in each container, beside a tensor and in its place."""
    mark = tmp_path / "the code ran"
    programs = attacks(str(mark))
    plain = pickle.dumps({"little_endian": True}, 2)
    magic = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001))
    for i, program in enumerate(programs.values()):
        whole = b"\x80\x04" + program + b"."
        (tmp_path / f"{i}.pth").write_bytes(whole)
        (tmp_path / f"{i}-legacy.pth").write_bytes(magic + plain + whole + pickle.dumps([], 2))
        (tmp_path / f"{i}-header.pth").write_bytes(magic + whole)
        archived(tmp_path / f"{i}-zip.pth", whole)
        beside = b"\x80\x04}(" + text("x") + program + text("w") + attacks("x")["call of a tensor"].split(b"(X")[0]
        archived(tmp_path / f"{i}-beside.pth", beside + b"u.")
    assert len(watched(tmp_path)) == 5 * len(programs)
    assert not mark.exists()
    assert pickle.loads(b"\x80\x04" + programs["GLOBAL REDUCE"] + b".") is None
    assert mark.exists(), "the attack is real"


def test_random_programs_run_no_code(tmp_path: Path) -> None:
    mark, generator = tmp_path / "the code ran", random.Random(1)
    fragments = [
        b"(", b")", b"}", b"]", b"N", b"0", b"2", b"K\x01", b"\x85", b"\x86", b"t", b"R", b"b", b"\x81", b"\x92", b"o",
        b"Q", b"a", b"e", b"s", b"u", b"\x90", b"\x93", b"q\x00", b"h\x00", b"\x94", b"cos\nmkdir\n", text(str(mark)),
        text("os"), text("mkdir"), b"cevil_module\nEvil\n", b"ccollections\nOrderedDict\n", b"cbuiltins\nset\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch\nfloat32\n",
        text("storage"), b"(ios\nmkdir\n",
    ]  # fmt: skip
    for i in range(1500):
        program = b"".join(generator.choices(fragments, k=generator.randrange(3, 40)))
        (tmp_path / f"{i}.pth").write_bytes(b"\x80\x04" + program + b".")
    assert len(watched(tmp_path)) == 1500
    assert not mark.exists()


def test_classes_stay_as_they_are(tmp_path: Path) -> None:
    """A file cannot change what the next one is read with."""
    for i, program in enumerate(attacks("x").values()):
        archived(tmp_path / f"{i}.pth", b"\x80\x04" + program + b".")
        with pytest.raises(CheckpointError):
            read_tensors(tmp_path / f"{i}.pth")
    path = saved(tensors(), tmp_path / "good.pth")
    assert all(equal(tensor, tensors()[name]) for name, tensor in read_tensors(path).tensors.items())


# Files that ask for too much


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "it numbers its objects with gaps"),
        (b"\x80\x02Np2000000000\n.", "it numbers its objects with gaps"),
        (b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\x00x.", "MemoryError|expected 72057594037927935 bytes"),
        (b"\x80\x02\x8b\xff\xff\xff\x7fx.", "not enough data"),
        (b"\x80\x02\x82\x01.", "it uses the registry of extensions"),
    ],
)
def test_pickles_that_cost_memory(program: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "t.pth"
    for write in (path.write_bytes, lambda content: archived(path, content)):
        write(program)
        with pytest.raises(CheckpointError, match=said):
            read_tensors(path)


@pytest.mark.parametrize(
    "change",
    [
        (b"K\x04tq", b"J\xff\xff\xff\x7ftq"),  # more numbers than the file has
        (b"K\x00K\x04\x85", b"K\x01K\x04\x85"),  # begins behind the first
        (b"K\x00K\x04\x85", b"K\x00J\xff\xff\xff\x7f\x85"),  # longer
        (b"K\x00K\x04\x85", b"J\xff\xff\xff\xffK\x04\x85"),  # begins before it
    ],
)
def test_tensors_that_reach_out_of_their_numbers(change: tuple[bytes, bytes], tmp_path: Path) -> None:
    path = saved({"w": torch.arange(4.0)}, tmp_path / "t.pth")
    before = zipfile.ZipFile(path).read("t/data.pkl")
    rewritten(path, lambda name, content: content.replace(*change) if name == "data.pkl" else content)
    assert zipfile.ZipFile(path).read("t/data.pkl") != before
    with pytest.raises(CheckpointError, match=r"t\.pth is damaged or truncated"):
        read_tensors(path)


def test_a_file_can_be_read_twice(tmp_path: Path) -> None:
    path = saved({"w": torch.arange(4.0)}, tmp_path / "t.pth", zipped=False)
    with open_torch_file(path) as file:
        record = file.content["w"]
        assert equal(file.tensor(record), torch.arange(4.0))
        assert equal(file.tensor(record), torch.arange(4.0))
