"""Input in parts: Parquet files (or some of their row groups), tars, fragments of Lance, or some images of a folder."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import PurePosixPath
from typing import IO, Any, Literal, NamedTuple, TypeAlias

import msgspec

from phidet.core.addresses import LARGEST_BYTES
from phidet.core.errors import ConfigError, InputError
from phidet.core.optional import optional_package
from phidet.detections.parquet import pyarrow
from phidet.images.formats import EXTENSIONS
from phidet.inference.batch.places import Place, files_below, folder_of, open_file, place_of, read_bytes

Kind = Literal["parquet", "lance", "tar", "images"]
Content: TypeAlias = bytes | str | InputError
"""An encoded image, its address, or why there is none."""
PARQUET, TARS = (".parquet", ".pq"), (".tar", ".tar.gz", ".tgz")
_IDS = ("id", "key", "image_id", "uid", "__key__", "name", "file_name", "path", "url")
_IMAGES = ("image", "bytes", "content", "data", "jpg", "jpeg", "png", "url", "uri", "path", "file", "file_name")
_TAR_END = 1_024  # bytes, all of them 0 (POSIX, ustar)
_ROWS = 64  # read at once, so that only few images are in memory
_READERS = 16  # threads that look at files


class Columns(msgspec.Struct, frozen=True):
    """Names of the columns that have the id and the image of a row."""

    id: str
    image: str


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """What becomes one output file.

    Attributes:
        name: of the output file, without its suffix.
        kind: what the input is.
        address: of the file or data set; of the folder where ``files`` are.
        digest: changes with the input.
        images: number of them, where it is known without reading everything.
        start, stop: the first row group, and the one after the last; of Lance the number of the fragment.
        files: names of images in the folder.
    """

    name: str
    kind: Kind
    address: str
    digest: str
    images: int | None = None
    start: int = 0
    stop: int = 0
    files: tuple[str, ...] = ()


class Plan(NamedTuple):
    """All parts of an input, and the columns where it is a table."""

    parts: list[Part]
    columns: Columns | None
    kind: Kind


class Chunk(NamedTuple):
    """Rows of a part: an Arrow array of ids, and as many images."""

    ids: Any
    contents: Sequence[Content]


class Wanted(NamedTuple):
    """What the user says of the input: columns (found by name and type unless given), and images in a part."""

    id: str | None = None
    image: str | None = None
    part_size: int = 1_000


def plan(source: str, wanted: Wanted) -> Plan:
    """The parts of the input at ``source``, always the same ones for the same input.

    Raises:
        InputError: there is nothing to read, or a file cannot be opened.
        ConfigError: the columns that are wanted are not there, or are not known.
    """
    place = place_of(source)
    if place.path.rstrip("/").endswith(".lance"):
        return _plan_lance(place, wanted)
    sizes = files_below(place)
    if not sizes:
        raise InputError(f"there is nothing at {source}: expected Parquet files, tars, a Lance data set or images")
    found: dict[Kind, list[str]] = {}
    for kind, endings in (("parquet", PARQUET), ("tar", TARS), ("images", tuple(EXTENSIONS))):
        names = [name for name in sizes if name.lower().endswith(endings)]
        if names:
            found[kind] = names  # type: ignore[index]
    if not found:
        raise InputError(f"{source} holds {len(sizes)} files, but no Parquet files, tars or images")
    if len(found) > 1:
        counts = ", ".join(f"{len(names)} of {kind}" for kind, names in found.items())
        raise InputError(f"{source} holds {counts}: name those of one kind with a pattern, as in '{source}/**/*.tar'")
    [(kind, names)] = found.items()
    folder = folder_of(place)
    if kind == "parquet":
        return _plan_parquet(folder, {name: sizes[name] for name in names}, wanted)
    if wanted.id is not None or wanted.image is not None:
        raise ConfigError(f"columns are of Parquet and Lance: {source} holds {kind}")
    if kind == "tar":
        parts = [Part(_stem(n, TARS), "tar", folder.file(n).address, _digest(n, sizes[n])) for n in names]
        return Plan(_checked(parts), None, "tar")
    return Plan(_plan_images(folder, {name: sizes[name] for name in names}, wanted.part_size), None, "images")


def chunks(part: Part, columns: Columns | None) -> Iterator[Chunk]:
    """The rows of a part, in order, a few at a time.

    Raises:
        InputError: it cannot be read, also in the middle of it.
    """
    pa = pyarrow("phidet batch")
    place = place_of(part.address)
    if part.kind == "images":
        for start in range(0, len(part.files), _ROWS):
            names = part.files[start : start + _ROWS]
            # Read when it is its turn, by the threads that decode.
            yield Chunk(pa.array(names, pa.string()), [place.file(name).address for name in names])
    elif part.kind == "tar":
        with open_file(place) as file:
            for keys, contents in _samples(file, part.address):
                yield Chunk(pa.array(keys, pa.string()), contents)
    else:
        assert columns is not None
        read = _parquet_batches if part.kind == "parquet" else _lance_batches
        try:
            for batch in read(pa, place, part, columns):
                yield Chunk(batch.column(columns.id), contents_of(batch.column(columns.image)))
        except (pa.ArrowException, KeyError, OSError) as error:
            raise InputError(f"cannot read {part.address}: {' '.join(str(error).split())}") from error


def contents_of(column: Any) -> list[Content]:
    """The images of an Arrow column of bytes, of addresses, or of both (``bytes`` and ``path`` of Hugging Face's)."""
    return [_content(value) for value in column.to_pylist()]


def columns_of(schema: Any, wanted: Wanted) -> Columns:
    """The columns of id and image in an Arrow schema.

    Raises:
        ConfigError: they are not there, or not known.
    """
    names, kinds = schema.names, {field.name: str(field.type) for field in schema}
    for name in (wanted.id, wanted.image):
        if name is not None and name not in names:
            raise ConfigError(f"there is no column {name!r}: expected one of {', '.join(names)}")
    # A column without a value, as of an empty table that only shows what comes, has no type of its own.
    encoded = [name for name in names if "binary" in kinds[name] or (kinds[name] == "null" and name in _IMAGES)]
    image = wanted.image or next((n for n in _IMAGES if n in encoded), None) or next(iter(encoded), None)
    image = image or next((n for n in _IMAGES if n in names and "string" in kinds[n]), None)
    row_id = wanted.id or next((n for n in _IDS if n in names and n != image), None)
    row_id = row_id or (image if image is not None and "binary" not in kinds[image] else None)
    if image is None or row_id is None:
        lacking = "image (--image COLUMN)" if image is None else "id (--id COLUMN)"
        raise ConfigError(f"which column has the {lacking}? there are {', '.join(names)}")
    return Columns(row_id, image)


def _content(value: Any) -> Content:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | str) and value:
        return value
    return InputError("the row has no image")


def _plan_parquet(folder: Place, sizes: dict[str, int], wanted: Wanted) -> Plan:
    """Files as they are; large ones in runs of row groups that have at least the wanted number of rows."""
    pa = pyarrow("phidet batch")

    def look(name: str) -> tuple[Any, list[int]]:
        try:
            with open_file(folder.file(name)) as file, pa.parquet.ParquetFile(file) as opened:
                metadata = opened.metadata
                return opened.schema_arrow, [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"cannot read {folder.file(name).address}: {' '.join(str(error).split())}") from error

    with ThreadPoolExecutor(_READERS) as pool:
        looked = list(pool.map(look, sizes))
    columns = columns_of(looked[0][0], wanted)
    parts = []
    for (name, size), (schema, rows) in zip(sizes.items(), looked, strict=True):
        if not {columns.id, columns.image} <= set(schema.names):
            raise ConfigError(f"{name} has no columns {columns.id} and {columns.image}, as the first file has")
        runs = list(_runs(rows, wanted.part_size))
        for start, stop in runs:
            stem = _stem(name, PARQUET) if len(runs) == 1 else f"{_stem(name, PARQUET)}-{start:05d}"
            digest = _digest(name, size, rows[start:stop])
            count = sum(rows[start:stop])
            parts.append(Part(stem, "parquet", folder.file(name).address, digest, count, start, stop))
    return Plan(_checked(parts), columns, "parquet")


def _runs(rows: Sequence[int], least: int) -> Iterator[tuple[int, int]]:
    """Row groups that follow each other, as ranges with at least so many rows; the rest belongs to the last one."""
    starts, count = [0], 0
    for i, number in enumerate(rows):
        if count >= least and sum(rows[i:]) >= least:
            starts.append(i)
            count = 0
        count += number
    return zip(starts, [*starts[1:], len(rows)], strict=True)


def _plan_lance(place: Place, wanted: Wanted) -> Plan:
    dataset = _lance(place.address)
    columns = columns_of(dataset.schema, wanted)
    fragments = dataset.get_fragments()
    parts = []
    for fragment in fragments:
        rows, number = fragment.count_rows(), fragment.fragment_id
        digest = _digest(number, rows, fragment.physical_rows)
        parts.append(Part(f"fragment-{number:05d}", "lance", place.address, digest, rows, number))
    return Plan(parts, columns, "lance")


def _plan_images(folder: Place, sizes: dict[str, int], part_size: int) -> list[Part]:
    names = list(sizes)
    parts = []
    for number, start in enumerate(range(0, len(names), part_size)):
        files = names[start : start + part_size]
        # By names and sizes, without opening anything: a part of a folder is digested again at each start.
        digest = _digest([(name, sizes[name]) for name in files])
        name = f"part-{number:05d}"
        parts.append(Part(name, "images", folder.address, digest, len(files), files=tuple(files)))
    return parts


def _parquet_batches(pa: Any, place: Place, part: Part, columns: Columns) -> Iterator[Any]:
    with open_file(place) as file, pa.parquet.ParquetFile(file) as opened:
        groups = range(part.start, part.stop)
        names = list(dict.fromkeys((columns.id, columns.image)))
        yield from opened.iter_batches(_ROWS, row_groups=list(groups), columns=names)


def _lance_batches(_: Any, place: Place, part: Part, columns: Columns) -> Iterator[Any]:
    fragment = _lance(place.address).get_fragment(part.start)
    names = list(dict.fromkeys((columns.id, columns.image)))
    yield from fragment.to_batches(columns=names, batch_size=_ROWS)


def _lance(address: str) -> Any:
    lance = optional_package("lance", "a Lance data set", "lance")
    try:
        return lance.dataset(address)
    except (ValueError, OSError) as error:
        raise InputError(f"cannot open {address}: {' '.join(str(error).split())}") from error


def _samples(file: IO[bytes], address: str) -> Iterator[tuple[list[str], list[Content]]]:
    """Keys and images of a WebDataset: files of one name follow each other, of which one is an image."""
    keys: list[str] = []
    contents: list[Content] = []
    try:
        stream: Any = file
        if address.lower().endswith(".tar"):
            # Python's reader takes a tar that is cut off between two files for a whole one, and rows would be lost.
            file.seek(-min(_TAR_END, file.seek(0, 2)), 2)
            if file.read() != bytes(_TAR_END):
                raise InputError(f"cannot read {address}: it is cut off, as it does not end the way that tars do")
            file.seek(0)
        else:
            stream = gzip.GzipFile(fileobj=file)  # says so where it is cut off
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            members = (member for member in tar if member.isfile())
            for key, sample in groupby(members, lambda member: _key(member.name)):
                # A stream cannot go back: each file is read while it passes by.
                images = [_member(tar, m) for m in sample if PurePosixPath(m.name).suffix.lower() in EXTENSIONS]
                keys.append(key)
                contents.append(images[0] if images else InputError("the sample has no image"))
                if len(keys) >= _ROWS:
                    yield keys, contents
                    keys, contents = [], []
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"cannot read {address}: {error}") from error
    yield keys, contents


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Content:
    if member.size > LARGEST_BYTES:
        return InputError(f"{member.name} is larger than {LARGEST_BYTES:,} bytes")
    opened = tar.extractfile(member)
    content = b"" if opened is None else opened.read()
    if len(content) < member.size:
        raise tarfile.ReadError(f"{member.name} is cut off")
    return content or InputError("the sample has no image")


def _key(name: str) -> str:
    """A file's name up to the first dot of its last part."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".", maxsplit=1)[0] or path.name))


def _stem(name: str, endings: Sequence[str]) -> str:
    ending = max((e for e in endings if name.lower().endswith(e)), key=len)
    return name[: -len(ending)]


def _checked(parts: list[Part]) -> list[Part]:
    """Raises InputError where two parts would be written to one file."""
    names = [part.name for part in parts]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two parts of the input would be written as {twice}.parquet: rename one")
    return parts


def _digest(*values: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(values), digest_size=8).hexdigest()


def read_content(content: str, base: str) -> bytes:
    """The image at an address; paths without one are relative to ``base``.

    Raises:
        InputError: it cannot be read.
        DownloadError: it could not be fetched.
    """
    from phidet.images.remote import fetch_image  # noqa: PLC0415 - slow to import, and rarely needed

    if content.startswith(("http:", "https:", "data:")):
        return fetch_image(content)
    if "://" not in content and not content.startswith("/"):
        content = f"{base.rstrip('/')}/{content}"
    return read_bytes(place_of(content), LARGEST_BYTES)
