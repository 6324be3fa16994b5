"""What commands that read images and videos print while they run, and how they end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from phidet.core.errors import InputError, PhidetError

if TYPE_CHECKING:
    from phidet.detections.detections import Detections
    from phidet.detections.sinks import Sink
    from phidet.images.sources import SourceImage, Unusable


@contextmanager
def writing(sinks: Sequence[Sink], report: Report) -> Iterator[None]:
    """Keeps what the sinks wrote when the block ends, is interrupted or nobody reads on; discards it after an error."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        _keep(sinks, report)
        raise
    except BrokenPipeError:
        report.quiet = True  # standard output is closed; the files are still written
        _keep(sinks, report)
        raise
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    _keep(sinks, report)


def _keep(sinks: Sequence[Sink], report: Report) -> None:
    """Closes all sinks; if one fails, the others are still closed."""
    errors: list[PhidetError] = []
    written: list[str] = []
    for sink in sinks:
        try:
            # Errors are collected: the results of a whole run must not be lost because one disk or folder failed.
            written.append(sink.keep())
        except PhidetError as error:
            sink.discard()
            errors.append(error)
    report.done([w for w in written if w])
    if errors:
        raise errors[0]


class Report:
    """Output during a run: a line for each image or video on standard output, progress and errors on standard
    error."""

    before = "at most "
    """What stands before a video's numbers of objects."""
    unit = "image"
    """What is counted in the last line."""

    def __init__(self, json_lines: bool) -> None:
        self.quiet = False
        self._json = json_lines
        self._start = self._shown = time.monotonic()
        self._images = self._objects = 0
        self._previous: SourceImage | None = None
        self._errors: list[PhidetError] = []
        self._progress = sys.stderr.isatty()
        self._video: tuple[str, int, dict[str, int]] | None = None  # source, frames, tally

    def found(self, item: SourceImage, found: Detections) -> None:
        """Reports an image or frame."""
        from phidet.detections.sinks.json_csv import json_line

        self._images += 1
        self._objects += len(found)
        # Frames of a video are summed up in one line, which is printed when the next source begins.
        if not item.continues(self._previous):
            self._end_video()
        self._previous = item
        if self._json:
            # Flushed for each image, so that a reader of the pipe gets results while a video runs.
            sys.stdout.buffer.write(json_line(item, found))
            sys.stdout.buffer.flush()
        elif item.frame is None:
            self._say(f"{item.source}: {_counts(found.counts())}")
        if item.frame is not None:
            tally = self.tally(self._video[2] if self._video else {}, found)
            self._video = (item.source, item.frame + 1, tally)
        self._show_progress()

    def tally(self, so_far: dict[str, int], found: Detections) -> dict[str, int]:
        """A video's numbers of objects by class, with those of the next frame; ``so_far`` is empty at its beginning."""
        # The largest number of each class in a single frame: summing over frames would count one object many times.
        return {**so_far, **{name: max(n, so_far.get(name, 0)) for name, n in found.counts().items()}}

    def total(self) -> str:
        """How many objects there were."""
        from phidet.core.words import count

        return count(self._objects, "object")

    def failed(self, unusable: Unusable) -> None:
        """Reports a source, or the rest of one, that cannot be used."""
        from phidet.detections.sinks.base import readable
        from phidet.detections.sinks.json_csv import error_line

        self._end_video()
        self._errors.append(unusable.error)
        if self._json:
            sys.stdout.buffer.write(error_line(unusable))
            sys.stdout.buffer.flush()
        self._clear()
        print(f"phidet: {readable(str(unusable.error))}", file=sys.stderr)

    def note(self, text: str) -> None:
        """Prints a note for the user that is not an error."""
        from phidet.detections.sinks.base import readable

        self._clear()
        print(f"phidet: {readable(text)}", file=sys.stderr)

    def done(self, written: Sequence[str]) -> None:
        """The last line: how many, how fast, and what was written."""
        from phidet.core.words import count

        self._end_video()
        self._clear()
        seconds = time.monotonic() - self._start
        parts = [f"{count(self._images, self.unit)}, {self.total()}"]
        if self._errors:
            parts[0] += f", {count(len(self._errors), 'error')}"
        if self._images > 1:
            parts.append(f"{self._images / seconds:.1f} {self.unit}s a second")
        if written:
            parts.append(f"wrote {', '.join(written)}")
        print("; ".join(parts), file=sys.stderr)

    def raise_for_failures(self) -> None:
        """Raises one error for all that failed, with the exit code that they share, else that of InputError."""
        if not self._errors:
            return
        # One exit code for scripts: that of the failures where they agree.
        codes = {error.exit_code for error in self._errors}
        many = len(self._errors)
        summary = PhidetError("1 source could not be used" if many == 1 else f"{many} sources could not be used")
        summary.exit_code = codes.pop() if len(codes) == 1 else InputError.exit_code
        raise summary

    def _end_video(self) -> None:
        if self._video is not None:
            from phidet.core.words import count

            source, frames, tally = self._video
            self._video = None
            if not self._json:
                self._say(f"{source}: {count(frames, 'frame')}, {_counts(tally, self.before)}")

    def _say(self, line: str) -> None:
        from phidet.detections.sinks.base import readable

        self._clear()
        if not self.quiet:
            print(readable(line), flush=True)

    def _show_progress(self) -> None:
        from phidet.core.words import count

        now = time.monotonic()
        if self._progress and now - self._shown > 0.2:
            self._shown = now
            done = f"{count(self._images, self.unit)}, {self._images / (now - self._start):.1f} a second"
            print(f"\r\033[K{done}", end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._progress:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _counts(counts: dict[str, int], before: str = "") -> str:
    return before + ", ".join(f"{n} {name}" for name, n in counts.items()) if counts else "nothing"
