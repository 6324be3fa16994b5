"""What commands that read images and videos print while they run, and how they end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from phidet.core.errors import InputError, PhidetError
from phidet.core.words import count

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
    for i, sink in enumerate(sinks):
        try:
            # Errors are collected: the results of a whole run must not be lost because one disk or folder failed.
            written.append(sink.keep())
        except PhidetError as error:
            sink.discard()
            errors.append(error)
        except BaseException:  # a defect, or another signal: nothing unfinished stays behind
            for other in sinks[i:]:
                other.discard()
            raise
    report.done([w for w in written if w])
    if errors:
        raise errors[0]


class StatusLine:
    """A line on standard error that says how far a command is; on a terminal the next one takes its place."""

    def __init__(self) -> None:
        self.is_terminal = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Shows a line on a terminal, and nothing elsewhere."""
        if self.is_terminal:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """Shows a line on a terminal, and prints one elsewhere, as in a log."""
        if self.is_terminal:
            self.show(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Removes the line, so that what follows does not stand behind it."""
        self.show("")

    def note(self, text: str) -> None:
        """Prints a line of its own that stays."""
        from phidet.detections.sinks.base import readable

        self.clear()
        print(f"phidet: {readable(text)}", file=sys.stderr)


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
        self._line = StatusLine()
        self._video: tuple[str, int, dict[str, int]] | None = None  # source, frames, tally

    def found(self, item: SourceImage, found: Detections) -> None:
        """Reports an image or frame."""
        self._images += 1
        self._objects += len(found)
        # Frames of a video are summed up in one line, which is printed when the next source begins.
        if not item.continues(self._previous):
            self._end_video()
        self._previous = item
        if self._json:
            from phidet.detections.sinks.json_csv import json_line

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
        return count(self._objects, "object")

    def failed(self, unusable: Unusable) -> None:
        """Reports a source, or the rest of one, that cannot be used."""
        self._end_video()
        self._errors.append(unusable.error)
        if self._json:
            from phidet.detections.sinks.json_csv import error_line

            sys.stdout.buffer.write(error_line(unusable))
            sys.stdout.buffer.flush()
        self.note(str(unusable.error))

    def note(self, text: str) -> None:
        """Prints a note for the user."""
        self._line.note(text)

    def done(self, written: Sequence[str]) -> None:
        """The last line: how many, how fast, and what was written."""
        self._end_video()
        self._line.clear()
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
        summary = PhidetError(f"{count(len(self._errors), 'source')} could not be used")
        summary.exit_code = codes.pop() if len(codes) == 1 else InputError.exit_code
        raise summary

    def _end_video(self) -> None:
        if self._video is not None:
            source, frames, tally = self._video
            self._video = None
            if not self._json:
                self._say(f"{source}: {count(frames, 'frame')}, {_counts(tally, self.before)}")

    def _say(self, line: str) -> None:
        from phidet.detections.sinks.base import readable

        self._line.clear()
        if not self.quiet:
            print(readable(line), flush=True)

    def _show_progress(self) -> None:
        now = time.monotonic()
        # Five times a second: a terminal that is written to for each small image slows the run down.
        if now - self._shown > 0.2:
            self._shown = now
            self._line.show(f"{count(self._images, self.unit)}, {self._images / (now - self._start):.1f} a second")


def _counts(counts: dict[str, int], before: str = "") -> str:
    return before + ", ".join(f"{n} {name}" for name, n in counts.items()) if counts else "nothing"
