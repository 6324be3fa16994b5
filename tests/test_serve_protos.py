"""The messages are what the .proto files give, and mean what they mean for clients that others wrote."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from phidet.serve.messages import COMPILED

ROOT = Path(__file__).parents[1]
PROTOS = ROOT / "src" / "phidet" / "serve" / "protos"
CLIENTS = ROOT / ".venv-clients" / "bin" / "python"
DUMP = """
import importlib, json, pathlib
import ovmsclient.tfs_compat.protos as protos, tritonclient.grpc.model_config_pb2, tritonclient.grpc.service_pb2
found = {}
def note(kind):
    found[kind.full_name] = {f.name: [f.number, f.type, f.is_repeated] for f in kind.fields}
    for inner in kind.nested_types: note(inner)
    for enum in kind.enum_types: note_enum(enum)
def note_enum(kind):
    found[kind.full_name] = {value.name: value.number for value in kind.values}
modules = [tritonclient.grpc.model_config_pb2, tritonclient.grpc.service_pb2]
root = pathlib.Path(protos.__path__[0])
for path in sorted([*root.glob("tensorflow/core/framework/*_pb2.py"), *root.glob("tensorflow/core/*/meta_graph_pb2.py"),
                    *root.glob("tensorflow_serving/apis/*_pb2.py"), *root.glob("tensorflow_serving/config/*_pb2.py"),
                    *root.glob("tensorflow_serving/util/status_pb2.py")]):
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    modules.append(importlib.import_module(f"{protos.__name__}.{name}"))
for module in modules:
    for kind in module.DESCRIPTOR.message_types_by_name.values(): note(kind)
    for kind in module.DESCRIPTOR.enum_types_by_name.values(): note_enum(kind)
print(json.dumps(found))
"""
"""Every message and enum that ovmsclient and tritonclient have: name → field → number, type, repeated."""
RENAMED = {
    "tensorflow.serving.ModelConfig.Label": "tensorflow.serving.ModelConfig.VersionLabelsEntry",
    "tensorflow.serving.VersionPolicy": "tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy",
    "tensorflow.serving.LoggingConfig.": "tensorflow.serving.",
    "tensorflow.": "ovmsclient.",
}
"""Beginnings of names, by turns, and what they are with ovmsclient, which has packages of its own."""
OURS = re.compile(r"google|grpc|.*\.(Refused\w+|Code|BatchingParameters.*|DefaultsEntry)$")
"""What is not compared: others' files, what nobody reads, what is read from text alone, and what is newer than 2023."""
NEWER = {
    ("tensorflow.serving.ModelConfig", "logging_configs"),
    ("tensorflow.serving.LoggingConfig.SamplingConfig", "attributes"),
    ("tensorflow.SignatureDef", "defaults"),
}


def compiled() -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString((PROTOS / COMPILED).read_bytes())


def test_they_are_what_the_proto_files_give(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="no grpcio-tools here: pip install 'phidet[dev]'")
    out = tmp_path / COMPILED
    names = sorted(path.name for path in PROTOS.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "--proto_path", str(PROTOS), "--include_imports"]
    subprocess.run([*command, "--descriptor_set_out", str(out), *names], check=True, timeout=600)
    fresh = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    ours = {file.name: file for file in compiled().file}
    wanted = {file.name: file for file in fresh.file if file.name in names}
    assert {name: ours[name] for name in names} == wanted, "run `make protos`"


@pytest.mark.skipif(not CLIENTS.exists(), reason="no clients here: make clients")
def test_every_field_is_that_of_clients_that_others_wrote() -> None:
    done = subprocess.run([str(CLIENTS), "-c", DUMP], capture_output=True, text=True, timeout=600, check=True)
    theirs = json.loads(done.stdout)
    checked = 0
    for name, fields in everything():
        if OURS.match(name):
            continue
        other = name
        for begin, instead in RENAMED.items():
            other = instead + other.removeprefix(begin) if other.startswith(begin) else other
        for field, facts in fields.items():
            if (name, field) not in NEWER:
                assert facts == theirs[other][field], (name, field)
                checked += 1
    assert checked > 150


def everything() -> Iterator[tuple[str, dict[str, Any]]]:
    """Our messages and enums, as ``DUMP`` has theirs."""
    pending: list[tuple[str, Any]] = [(file.package, file) for file in compiled().file]
    while pending:
        name, kind = pending.pop()
        is_file = isinstance(kind, descriptor_pb2.FileDescriptorProto)
        if not is_file:
            yield name, {f.name: [f.number, f.type, f.label == f.LABEL_REPEATED] for f in kind.field}
        pending += [(f"{name}.{inner.name}", inner) for inner in (kind.message_type if is_file else kind.nested_type)]
        for enum in kind.enum_type:
            yield f"{name}.{enum.name}", {value.name: value.number for value in enum.value}


def test_another_copy_of_the_messages_may_live_in_the_process() -> None:
    """TensorFlow and its clients put messages of these names into protobuf's default pool."""
    code = (
        "import google.protobuf.any_pb2, google.protobuf.wrappers_pb2\n"
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "from phidet.serve.messages import message\n"
        "message('tensorflow.serving.PredictRequest')\n"
        f"data = open({str(PROTOS / COMPILED)!r}, 'rb').read()\n"
        "for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:\n"
        "    if not file.name.startswith('google/'):\n"
        "        file.name = 'other/' + file.name\n"
        "        file.dependency[:] = [d if d.startswith('google/') else 'other/' + d for d in file.dependency]\n"
        "        descriptor_pool.Default().AddSerializedFile(file.SerializeToString())\n"
        "print(descriptor_pool.Default().FindMessageTypeByName('tensorflow.serving.PredictRequest').file.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout == "other/tensorflow_serving.proto\n", done.stderr
