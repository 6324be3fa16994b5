"""The worker: a detector over rows of a table, or over a part of an input; loaded once in each process.

>>> worker = BatchWorker("person", threads=2)
>>> worker(table)  # pyarrow.Table with id and image -> id, image_width, image_height, detections, error, model, version
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

import msgspec

from phidet.core.errors import InputError, PhidetError
from phidet.core.extras import __version__
from phidet.detections.detections import Detections
from phidet.detections.parquet import objects_column, pyarrow, size_columns, with_names
from phidet.detections.settings import PostprocessSettings
from phidet.detections.sinks.base import readable
from phidet.images.decode import Needed, read_reduced
from phidet.images.sources import SourceImage, Unusable
from phidet.inference.batch.parts import Columns, Content, Part, Wanted, chunks, columns_of, contents_of, read_content
from phidet.inference.detector import Detector
from phidet.inference.runtimes.open_model import find_model
from phidet.inference.runtimes.options import Runtime
from phidet.inference.stream import detect_stream, needed_by
from phidet.inference.tiles import check_tile

ABOUT = "phidet.part"
"""Key in a file's metadata of what it was made from, :class:`PartAbout`."""
Outcome: TypeAlias = Detections | PhidetError
_AHEAD = 2  # images that are decoded while others are detected; each of 12 megapixels has 36 MB
_READERS, _FETCHERS = 1, 8  # threads, of which those that fetch wait most of the time


class PartAbout(msgspec.Struct, frozen=True):
    """What an output file was made from: the digest of its part, and of the model."""

    digest: str
    model: str
    phidet: str = __version__


class Made(NamedTuple):
    """An output file: its content, and how many images, errors and objects it has."""

    content: bytes
    images: int
    errors: int
    objects: int


class BatchWorker:
    """Detects in rows of images. Small to pickle: the model is opened where, and when, it is first used.

    Args:
        model: as :class:`phidet.Detector` takes it; where the worker runs, it must mean the same file.
        settings: thresholds and suppression.
        runtime: of the model.
        threads: of one call of the network.
        batch: images, or tiles of one image, that go through the network at once.
        tile: side of tiles in pixels, ``None`` for whole images.
        exact: decode all pixels of large JPEGs, also where the network sees a fraction of them.
        version: the model's, as :func:`model_version` gives it; another file of that name is then refused.

    Raises:
        ConfigError: tiles that cannot be.
    """

    def __init__(
        self,
        model: str | Path = "person",
        settings: PostprocessSettings | None = None,
        *,
        runtime: Runtime = "auto",
        threads: int = 1,
        batch: int = 1,
        tile: int | None = None,
        exact: bool = False,
        version: str | None = None,
    ) -> None:
        self.model, self.runtime, self.threads, self.batch, self.tile = str(model), runtime, threads, batch, tile
        self.exact = exact
        self.settings = settings or PostprocessSettings()
        check_tile(tile, self.settings)
        self._version = version
        self._detector: Detector | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_detector": None}

    @property
    def detector(self) -> Detector:
        """The detector, opened when it is first asked for.

        Raises:
            CheckpointError: there is no such model.
            InputError: it is another one than ``version`` says.
        """
        # On the worker's machine the same name may mean another file.
        if self._detector is None:
            found = model_version(self.model, self.runtime)
            if self._version not in (None, found):
                raise InputError(
                    f"the model {self.model} on this machine has version {found}, expected {self._version}: copy the "
                    "same file to all machines"
                )
            self._version = found
            self._detector = Detector(self.model, runtime=self.runtime, threads=self.threads, exact=self.exact)
        return self._detector

    @property
    def version(self) -> str:
        """Of the model's file."""
        if self._version is None:
            self._version = model_version(self.model, self.runtime)
        return self._version

    def __call__(self, rows: Any, columns: Columns | None = None) -> Any:
        """The results of a ``pyarrow.Table``, a ``pyarrow.RecordBatch`` or a ``pandas.DataFrame``, in the same form.

        Args:
            rows: with an id, and with images as bytes or addresses.
            columns: which these are; found by name and type unless given.

        Returns:
            ``id``, ``image_width``, ``image_height``, ``detections`` (:mod:`phidet.detections.parquet`), ``error``,
            ``model`` and ``version``, a row for each row, in order; a bad image is a row with its error.
        """
        pa = pyarrow("phidet.inference.batch")
        # The form that came goes back, as each framework calls a worker with its own.
        if isinstance(rows, pa.RecordBatch):
            [batch] = self(pa.Table.from_batches([rows]), columns).combine_chunks().to_batches() or [None]
            return batch
        if not isinstance(rows, pa.Table):
            return self(pa.Table.from_pandas(rows, preserve_index=False), columns).to_pandas()
        columns = columns or columns_of(rows.schema, Wanted())
        found = list(self.detect(contents_of(rows.column(columns.image))))
        return self._table(pa, rows.column(columns.id).combine_chunks(), found)

    def detect(self, contents: Iterable[Content], base: str = ".") -> Iterator[Outcome]:
        """What is found in each image, or why it could not be used.

        Args:
            contents: encoded images, their addresses, or errors, which are passed on.
            base: where paths without an address begin.
        """
        # Tiles are cut from all pixels.
        needed = None if self.tile is not None else needed_by(self.detector)
        read = partial(_read, base=base, needed=needed)
        for item in detect_stream(self.detector, _in_order(contents, read), self.settings, self.batch, self.tile):
            yield item.error if isinstance(item, Unusable) else item[1]

    def part(self, part: Part, columns: Columns | None) -> Made:
        """The output file of a part.

        Raises:
            InputError: the part cannot be read.
        """
        pa = pyarrow("phidet batch")
        # Ids go past the detector: they are collected while the images are read.
        ids: list[Any] = []

        def contents() -> Iterator[Content]:
            for chunk in chunks(part, columns):
                ids.append(chunk.ids)
                yield from chunk.contents

        # Paths in a table are meant from its own folder.
        base = part.address if part.kind == "images" else part.address.rpartition("/")[0] or "."
        found = list(self.detect(contents(), base))
        joined = pa.concat_arrays(ids) if ids else pa.array([], pa.string())
        table = self._table(pa, joined, found)
        about = PartAbout(part.digest, self.version)
        table = table.replace_schema_metadata({**table.schema.metadata, ABOUT: msgspec.json.encode(about)})
        content = io.BytesIO()
        pa.parquet.write_table(table, content, compression="zstd", row_group_size=10_000)
        errors = sum(isinstance(one, PhidetError) for one in found)
        objects = sum(len(one) for one in found if isinstance(one, Detections))
        return Made(content.getvalue(), len(found), errors, objects)

    def _table(self, pa: Any, ids: Any, found: Sequence[Outcome]) -> Any:
        names = self.detector.class_names
        # Every row has all columns: an image that failed has no objects, and its error.
        objects = [one if isinstance(one, Detections) else Detections.empty(names) for one in found]
        errors = [readable(str(one)) if isinstance(one, PhidetError) else None for one in found]
        same = pa.array([Path(self.model).name, self.version], pa.string())
        columns = {
            "id": ids,
            **size_columns(pa, [one.image_size_hw for one in objects]),
            "detections": objects_column(pa, objects),
            "error": pa.array(errors, pa.string()),
            "model": pa.repeat(same[0], len(found)),
            "version": pa.repeat(same[1], len(found)),
        }
        return with_names(pa.table(columns), names)


def model_version(model: str, runtime: Runtime = "auto") -> str:
    """16 hexadecimal digits of SHA-256 over the file that a model's name means.

    Raises:
        CheckpointError: there is none.
    """
    path = find_model(model, ".safetensors" if runtime == "torch" else ".onnx")
    digest = hashlib.sha256()
    # OpenVINO keeps the weights in a second file.
    for file in (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,):
        try:
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise InputError(f"cannot read the model {file}: {error.strerror or error}") from error
    return digest.hexdigest()[:16]


def _read(content: Content, base: str, needed: Needed | None) -> SourceImage | Unusable:
    """The decoded image."""
    if isinstance(content, PhidetError):
        return Unusable("", content)
    try:
        encoded = content if isinstance(content, bytes) else read_content(content, base)
        seen = read_reduced(encoded, needed)
        return SourceImage("", PurePosixPath("image"), seen.pixels if seen.factor == 1 else seen)
    except PhidetError as error:
        return Unusable("", error)


def _in_order(
    contents: Iterable[Content], read: Callable[[Content], SourceImage | Unusable]
) -> Iterator[SourceImage | Unusable]:
    """Images in order, decoded a few ahead of the network; addresses are fetched many at once."""
    waiting: deque[Future[SourceImage | Unusable]] = deque()
    readers, fetchers = ThreadPoolExecutor(_READERS), ThreadPoolExecutor(_FETCHERS)
    try:
        for content in contents:
            is_address = isinstance(content, str)
            waiting.append((fetchers if is_address else readers).submit(read, content))
            if len(waiting) > (_FETCHERS if is_address else _AHEAD):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for pool in (readers, fetchers):
            pool.shutdown(cancel_futures=True)
