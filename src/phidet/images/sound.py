"""Puts the sound of one video into another, as it is coded, through PyAV (extra ``video``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from phidet.core.errors import InputError
from phidet.core.files import part_of, raising_write_errors
from phidet.images.pyav import import_av
from phidet.images.video_writer import container_of

_PRIMING_S = 0.1  # coders of sound begin with a silence before the first sound, which players skip


def copy_sound(video: Path, source: Path) -> bool:
    """Adds the first sound track of ``source`` to ``video``, in place and atomically; nothing is coded again.

    Returns:
        Whether ``source`` has one.

    Raises:
        InputError: the format of ``video`` cannot hold its codec.
        PhidetError: it cannot be written there.
    """
    av = import_av()
    part = part_of(video)
    try:
        with av.open(str(video)) as ours, av.open(str(source), metadata_errors="replace") as theirs:
            if not theirs.streams.audio:
                return False
            kind, options = container_of(video)
            with raising_write_errors(video), av.open(str(part), "w", format=kind, options=options) as out:
                out.metadata.update(ours.metadata)
                picture = _copied(out, ours.streams.video[0])
                sound = _copied(out, theirs.streams.audio[0])
                # Drawn videos begin at 0, their sources need not.
                first_s = float((theirs.streams.video[0].start_time or 0) * theirs.streams.video[0].time_base)
                _mux(out, (ours, picture), (theirs, sound), first_s)
        with raising_write_errors(video):
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(video)
    except av.FFmpegError as error:
        raise InputError(f"{video} cannot hold the sound of {source}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return True


def _copied(out: Any, stream: Any) -> Any:
    # PyAV before 14 takes the stream as an argument of add_stream.
    return (
        out.add_stream_from_template(stream)
        if hasattr(out, "add_stream_from_template")
        else out.add_stream(template=stream)
    )


def _mux(out: Any, picture: tuple[Any, Any], sound: tuple[Any, Any], first_s: float) -> None:
    """Writes both streams' packets in the order of their times; the sound starts where the source's video does."""
    (ours, our_stream), (theirs, their_stream) = picture, sound
    pending = None
    sounds = (packet for packet in theirs.demux(audio=0) if packet.dts is not None)
    for packet in ours.demux(video=0):
        if packet.dts is None:
            continue
        now = float(packet.dts * packet.time_base)
        while (pending := pending or next(sounds, None)) is not None and _time_s(pending) - first_s <= now:
            _write(out, pending, their_stream, first_s)
            pending = None
        packet.stream = our_stream
        out.mux(packet)
    end_s = float(ours.duration or 0) / 1e6
    while (pending := pending or next(sounds, None)) is not None and _time_s(pending) - first_s < end_s:
        _write(out, pending, their_stream, first_s)
        pending = None


def _time_s(packet: Any) -> float:
    return float(packet.dts * packet.time_base)


def _write(out: Any, packet: Any, stream: Any, first_s: float) -> None:
    shift = round(first_s / float(packet.time_base))
    packet.dts -= shift
    packet.pts = packet.dts if packet.pts is None else packet.pts - shift
    if packet.pts * packet.time_base >= -_PRIMING_S:
        packet.stream = stream
        out.mux(packet)
