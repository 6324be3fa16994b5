"""TFRecord files and the ``tf.train.Example`` messages in them, without TensorFlow.

A record is its length (8 bytes), the length's checksum (4), the payload, the payload's checksum (4), all little-endian;
the checksums are CRC-32C, rotated and shifted by a constant.

The packages that read and check records are imported when one is read: data sets of all layouts know this module, and
with them every architecture, so that a detector would need those packages, too.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from phidet.core.errors import InputError

Value = list[bytes] | list[float] | list[int]
ENCODED_IMAGE = ("image/encoded", "image")
"""Names of the feature with the image: as TensorFlow's detection tools write it, and as TensorFlow Datasets do."""
_HEAD, _FOOT = struct.Struct("<QI"), struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8


class RecordImage(NamedTuple):
    """An image inside a TFRecord file: where its record starts."""

    path: Path
    offset: int

    def __str__(self) -> str:
        return f"{self.path} at byte {self.offset}"

    def read_bytes(self) -> bytes:
        """The encoded image.

        Raises:
            InputError: the record is damaged or holds none.
        """
        example = parse_example(read_record(self.path, self.offset))
        for key in ENCODED_IMAGE:
            found = example.get(key, [])
            if found and isinstance(found[0], bytes):
                return found[0]
        raise InputError(f"{self.path}: the record at byte {self.offset} holds no {ENCODED_IMAGE[0]}")


ImageSource = Path | RecordImage
"""Where an image of a data set lies."""


def scan(path: Path) -> Iterator[tuple[int, bytes]]:
    """Position and payload of every record.

    Raises:
        InputError: the file is cut off or damaged; the message has the position.
    """
    with _opened(path) as file:
        while True:
            position = file.tell()
            payload = _read(file, path)
            if payload is None:
                return
            yield position, payload


def read_record(path: Path, offset: int) -> bytes:
    """The payload of the record at ``offset``.

    Raises:
        InputError: there is none, or it is damaged.
    """
    with _opened(path) as file:
        file.seek(offset)
        payload = _read(file, path)
    if payload is None:
        raise InputError(f"{path} ends before byte {offset}")
    return payload


def write_record(file: BinaryIO, payload: bytes) -> None:
    """Appends one record."""
    length = struct.pack("<Q", len(payload))
    file.write(length + _FOOT.pack(_checksum(length)) + payload + _FOOT.pack(_checksum(payload)))


def parse_example(payload: bytes) -> dict[str, Value]:
    """The features of a ``tf.train.Example`` by name.

    Raises:
        InputError: the payload is not one.
    """
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    example = _example_class()()
    try:
        example.ParseFromString(payload)
    except DecodeError as error:
        raise InputError(f"a record is not a tf.train.Example: {error}") from error
    features: dict[str, Value] = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        features[name] = list(getattr(feature, kind).value) if kind else []
    return features


def make_example(features: Mapping[str, Value]) -> bytes:
    """A ``tf.train.Example`` of lists of bytes, floats or whole numbers; the same features give the same bytes."""
    example = _example_class()()
    for name, values in features.items():
        feature = example.features.feature[name]
        if not values:
            continue  # without a kind: TensorFlow refuses an empty list of a kind that it does not expect
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    payload: bytes = example.SerializeToString(deterministic=True)
    return payload


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _read(file: BinaryIO, path: Path) -> bytes | None:
    """The next record's payload, ``None`` at the end of the file."""
    position = file.tell()
    head = file.read(_HEAD.size)
    if not head:
        return None
    if len(head) == _HEAD.size:
        length, checksum = _HEAD.unpack(head)
        if _checksum(head[:8]) != checksum:
            if position == 0:
                _refuse_other_files(head, path)
            raise InputError(f"{path} is damaged, or not a TFRecord file (checksum of the length at byte {position})")
        # A damaged length could ask for terabytes: compared with what is left of the file before reading.
        left = os.fstat(file.fileno()).st_size - file.tell()
        body = file.read(length + _FOOT.size) if length + _FOOT.size <= left else b""  # never more than there is
        if len(body) == length + _FOOT.size:
            payload = body[:length]
            if _checksum(payload) != _FOOT.unpack(body[length:])[0]:
                raise InputError(f"{path} is damaged: the record at byte {position} does not match its checksum")
            return payload
    raise InputError(f"{path} is cut off in the record at byte {position}: copy it again")


def _refuse_other_files(head: bytes, path: Path) -> None:
    """Raises InputError for files that begin as compressed records or as Git's placeholder of a large file do."""
    # Images are read one at a time by their place in the file, which compression does not allow.
    if head.startswith(b"\x1f\x8b"):
        raise InputError(f"{path} is compressed with gzip: decompress it, for example gzip -dc {path.name} > plain")
    if head[0] == 0x78 and int.from_bytes(head[:2], "big") % 31 == 0:  # RFC 1950: deflate, header checksum
        raise InputError(f"{path} is compressed with zlib: decompress it, for example pigz -dcz {path.name} > plain")
    if head.startswith(b"version http"):
        raise InputError(f"{path} is a placeholder of Git LFS: fetch the file itself (git lfs pull)")


def _checksum(content: bytes) -> int:
    import google_crc32c  # noqa: PLC0415

    crc = google_crc32c.value(content)
    # TFRecord's masking: a checksum stored inside data that are checksummed themselves would be a weak one.
    masked: int = (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF
    return masked


@cache
def _example_class() -> Any:
    """``tf.train.Example``: a map from names to one of three lists."""
    from phidet.data.protobuf import message_class  # noqa: PLC0415

    return message_class(_EXAMPLE, "phidet.Example")


# As TensorFlow's example.proto and feature.proto have them; a map is a repeated message with a key and a value.
_EXAMPLE = """
name: "phidet_example.proto" package: "phidet" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: ".phidet.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 type: TYPE_MESSAGE type_name: ".phidet.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 type: TYPE_MESSAGE type_name: ".phidet.Int64List" oneof_index: 0 } }
message_type { name: "Features"
  nested_type { name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".phidet.Feature" } }
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE
          type_name: ".phidet.Features.FeatureEntry" } }
message_type { name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".phidet.Features" } }
"""
