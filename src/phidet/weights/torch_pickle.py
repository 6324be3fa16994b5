"""Reads files of ``torch.save`` without running code from them.

A pickle is a program that may import and call anything. Here it can use only what ``_Unpickler.find_class`` returns,
which imports nothing: a few containers, records of tensors, and for every other name a new placeholder class whose
instances only store data. So a training checkpoint is read with its arguments and metrics beside the weights, whatever
their classes.

There are two containers: a zip archive with ``data.pkl`` and one file per storage (PyTorch 1.6 and later), and before
that several pickles in a row, followed by the storages' bytes. Storages are read when a tensor is requested,
so that optimizer states cost nothing.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file without an archive
_MAX_PICKLE_BYTES = 1 << 28  # state dicts have less than a megabyte


class Dtype(NamedTuple):
    """A type of numbers by PyTorch's name, and the bytes of one of them."""

    name: str
    itemsize: int


def _dtypes(itemsize: int, names: str) -> dict[str, Dtype]:
    """Names of types → the type; "a=b" is a, another name of b."""
    return {alias: Dtype(name or alias, itemsize) for alias, _, name in (text.partition("=") for text in names.split())}


_DTYPES = {
    **_dtypes(1, "int8 uint8 bool qint8 quint8 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz"),
    **_dtypes(1, "float8_e8m0fnu float4_e2m1fn_x2 quint4x2 quint2x4 bits8"),
    **_dtypes(2, "float16 half=float16 bfloat16 int16 short=int16 uint16 bits16"),
    **_dtypes(4, "float32 float=float32 int32 int=int32 uint32 qint32 complex32 chalf=complex32"),
    **_dtypes(8, "float64 double=float64 int64 long=int64 uint64 complex64 cfloat=complex64"),
    **_dtypes(16, "complex128 cdouble=complex128"),
}
"""PyTorch's types; listed, so that files are read without it."""
_STORAGES = {
    name: _DTYPES[dtype]
    for name, dtype in {
        "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
        "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
        "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
        "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    }.items()
}  # fmt: skip


class _Fixed(type):
    """Metaclass of classes whose attributes a pickle's BUILD cannot set."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"it sets {name} of a class")


class Placeholder(dict[Any, Any], metaclass=_Fixed):
    """Stands for an object of a class that is not imported; holds its items if that class is a dictionary.

    Attributes:
        attributes: of the instance, as far as the pickle has them in a dictionary.
    """

    __slots__ = ("attributes",)
    attributes: dict[Any, Any]

    def __new__(cls, *_: object, **__: object) -> Any:
        """Accepts and ignores any arguments."""
        made = dict.__new__(cls)
        made.attributes = {}
        return made

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # (attributes, slots)
            if isinstance(part, dict):
                self.attributes.update(part)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:  # type: ignore[override] # keys of dictionaries may be objects of any class
        return id(self)

    # What pickles call on containers other than dictionaries: lists and sets of a class of their own.
    def append(self, _: object) -> None:
        """Does nothing."""

    extend = add = append


class _OrderedDict(Placeholder):
    """``collections.OrderedDict``; Python 2 gave its items as an argument."""

    __slots__ = ()

    def __init__(self, items: object = (), *_: object) -> None:
        super().__init__()
        dict.update(self, items)  # type: ignore[call-overload] # a damaged pickle raises here


class Storage(NamedTuple):
    """``numel`` numbers in the file, from number ``start`` of ``key`` on."""

    dtype: Dtype
    key: str
    numel: int
    start: int = 0


class TensorRecord(Placeholder):
    """A tensor that has not been read: ``torch._utils._rebuild_tensor_v2`` and its older form."""

    __slots__ = ("dtype", "offset", "size", "storage", "stride")

    def __init__(self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> None:
        super().__init__()
        # bool is an int, and a subclass of int could bring code: type(n) is exact.
        if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
            raise pickle.UnpicklingError("a tensor is not made of numbers of the file")
        self.storage, self.offset, self.size, self.stride = storage, offset, tuple(size), tuple(stride)
        self.dtype = storage.dtype


class _TypedTensorRecord(TensorRecord):
    """``torch._utils._rebuild_tensor_v3``: the type is beside the storage."""

    __slots__ = ()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        if not isinstance(args[6], Dtype):
            raise pickle.UnpicklingError("a tensor has no type")
        self.dtype = args[6]


class _Inner(metaclass=_Fixed):
    """Functions that wrap a tensor, as ``torch._utils._rebuild_parameter``: the tensor itself."""

    def __new__(cls, data: object = None, *_: object) -> Any:
        return data


class _FromType(metaclass=_Fixed):
    """``torch._tensor._rebuild_from_type_v2``: tensors with attributes of their own."""

    def __new__(cls, function: object = None, _: object = None, args: tuple[Any, ...] = (), *__: object) -> Any:
        known = isinstance(function, type) and issubclass(function, TensorRecord | _Inner)
        return function(*args) if known else Placeholder()  # type: ignore[operator]


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _OrderedDict,
    ("torch._utils", "_rebuild_tensor"): TensorRecord,
    ("torch._utils", "_rebuild_tensor_v2"): TensorRecord,
    ("torch._utils", "_rebuild_tensor_v3"): _TypedTensorRecord,
    ("torch._utils", "_rebuild_parameter"): _Inner,
    ("torch._utils", "_rebuild_parameter_with_state"): _Inner,
    ("torch._tensor", "_rebuild_from_type_v2"): _FromType,
    **{(module, "set"): set for module in ("builtins", "__builtin__")},
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
    **{
        (module, name): dtype
        for module in ("torch", "torch.cuda", "torch.storage")
        for name, dtype in _STORAGES.items()
    },
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        # All other names become empty classes: nothing is imported, so that no file can run code.
        return _KNOWN.get((module, name)) or _Fixed(name, (Placeholder,), {"__slots__": ()})

    def persistent_load(self, pid: Any) -> Any:
        kind, *rest = pid
        if kind == "module":  # a class, and its source text in files of PyTorch 0.x
            return rest[0]
        dtype, key, _, numel, *view = rest
        if kind != "storage" or not isinstance(dtype, Dtype) or type(numel) is not int:
            raise pickle.UnpicklingError(f"it refers to {kind!r}")
        # Files without an archive list their storages by key, without types: those are known from the references.
        root = Storage(dtype, str(key), numel)
        self.storages.setdefault(root.key, root)
        return root._replace(start=view[0][1]) if view and view[0] else root  # views: PyTorch 0.x


class TorchFile(NamedTuple):
    """What a file holds, its tensors as records, and what reads the bytes of a storage."""

    content: Any
    read_bytes: Callable[[Storage], bytearray]
    swapped: bool

    def tensor(self, record: TensorRecord) -> Tensor:
        """The tensor of a record.

        Raises:
            Exception: the file is damaged or truncated.
        """
        import torch  # noqa: PLC0415 - arrays are read without it

        storage, dtype = record.storage, getattr(torch, record.dtype.name)
        data = self.read_bytes(storage)
        numbers = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        if self.swapped:  # written on a machine of the other byte order
            numbers.untyped_storage().byteswap(dtype)  # type: ignore[no-untyped-call]
        return torch.as_strided(numbers, record.size, record.stride, record.offset + storage.start)

    def array(self, record: TensorRecord) -> npt.NDArray[Any]:
        """The tensor of a record as an array; bfloat16, which NumPy lacks, as float32.

        Raises:
            Exception: the file is damaged or truncated, or the tensor is of a type that NumPy lacks.
        """
        storage, name = record.storage, record.dtype.name
        stored = np.dtype("uint16" if name == "bfloat16" else name)  # TypeError for float8 and the like
        numbers = np.frombuffer(self.read_bytes(storage), stored.newbyteorder() if self.swapped else stored)
        numbers = numbers.astype(stored)
        if name == "bfloat16":
            numbers = from_bfloat16(numbers)
        begin = record.offset + storage.start
        # as_strided reads whatever lies there, so the last number of the tensor must be one of the file.
        last = begin + sum((n - 1) * step for n, step in zip(record.size, record.stride, strict=True))
        if 0 in record.size:
            return np.empty(record.size, numbers.dtype)
        if last >= len(numbers):
            raise pickle.UnpicklingError("a tensor is larger than its storage")
        strides = [step * numbers.itemsize for step in record.stride]
        return np.lib.stride_tricks.as_strided(numbers[begin:], record.size, strides).copy()


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Numbers in bfloat16, which are the upper halves of numbers in fp32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@contextlib.contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """The content of a file of ``torch.save``; tensors can be read until the block is left.

    Raises:
        Exception: whatever a damaged pickle or archive makes of it.
    """
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                yield _open_archive(archive)
        else:
            file.seek(0)
            yield _open_pickles(file)


def _open_archive(archive: zipfile.ZipFile) -> TorchFile:
    names = {name.partition("/")[2]: name for name in archive.namelist()}  # the folder has the file's first name
    if "constants.pkl" in names:
        raise pickle.UnpicklingError("a TorchScript archive, which is code: save its state_dict() instead")
    if "data.pkl" not in names:
        raise pickle.UnpicklingError("an archive without data.pkl, so not one of torch.save")

    for info in archive.infolist():
        if info.CRC == 0:  # was not computed: torch.serialization.set_crc32_options(False)
            del info.CRC

    # The size is checked before anything is unpacked: a small archive may claim, and unpack to, terabytes.
    def read(name: str, size: int) -> bytes:
        info = archive.getinfo(names[name])
        if info.file_size != size:
            raise pickle.UnpicklingError(f"{name} has {info.file_size} bytes, expected {size}")
        return archive.read(info)

    def read_bytes(storage: Storage) -> bytearray:
        return bytearray(read(f"data/{storage.key}", storage.numel * storage.dtype.itemsize))

    info = archive.getinfo(names["data.pkl"])
    if info.file_size > _MAX_PICKLE_BYTES:
        raise pickle.UnpicklingError(f"data.pkl has {info.file_size} bytes")
    program = io.BytesIO(archive.read(info))
    _check(program)
    program.seek(0)
    content = _Unpickler(program).load()
    swapped = "byteorder" in names and archive.read(names["byteorder"]) != sys.byteorder.encode()
    return TorchFile(content, read_bytes, swapped)


def _open_pickles(file: IO[bytes]) -> TorchFile:
    def load() -> tuple[Any, dict[str, Storage]]:
        begin = file.tell()
        _check(file)
        file.seek(begin)
        unpickler = _Unpickler(file)
        return unpickler.load(), unpickler.storages

    content, _ = load()
    if content != _MAGIC:
        return TorchFile(content, _no_bytes, False)  # a pickle of something else
    load()  # the version of the protocol
    system, _ = load()
    content, storages = load()
    keys, _ = load()
    # Behind the pickles, each storage is its number of elements and its bytes: skipped here, and read on demand.
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        places[str(key)] = file.tell(), count * storages[str(key)].dtype.itemsize
        file.seek(places[str(key)][1], 1)
    if file.tell() > file.seek(0, 2):
        raise pickle.UnpicklingError("its end is missing")

    def read_bytes(storage: Storage) -> bytearray:
        begin, size = places[storage.key]
        file.seek(begin)
        return bytearray(file.read(size))

    little = not isinstance(system, dict) or system.get("little_endian", True)
    return TorchFile(content, read_bytes, little != (sys.byteorder == "little"))


def _no_bytes(_: Storage) -> bytearray:
    raise pickle.UnpicklingError("it refers to numbers that it does not hold")


def _check(file: IO[bytes]) -> None:
    """Raises UnpicklingError for instructions that cost memory, or reach classes, past ``find_class``."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name.startswith("EXT"):
            raise pickle.UnpicklingError("it uses the registry of extensions")
        if "PUT" in opcode.name and int(argument or 0) > number:  # the memo is an array as long as its largest index
            raise pickle.UnpicklingError("it numbers its objects with gaps")
