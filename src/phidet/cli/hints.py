"""Options as other tools call them: what phidet calls them, instead of "unrecognized arguments"."""

from __future__ import annotations

import argparse
import os.path
import re
from collections.abc import Sequence

from phidet.core.errors import ConfigError

_NAMES: dict[str, tuple[str, ...]] = {
    "--score": ("conf", "conf-thres", "conf-threshold", "confidence", "threshold", "score-thr", "min-score"),
    "--iou": ("iou-thres", "nms-thres", "nms-threshold"),
    "--model": ("weights", "checkpoint", "ckpt", "model-path", "cfg", "load"),
    "--image-size": ("imgsz", "img", "img-size", "resolution", "input-size", "size"),
    "--out": ("project", "name", "save-dir", "output", "output-dir", "save-path", "out-dir", "exist-ok"),
    "--max": ("max-det", "max-dets", "topk"),
    "--batch-size": ("batch", "bs"),
    "--batch": ("batch-size", "bs"),
    "--learning-rate": ("lr", "lr0"),
    "--precision bf16-mixed": ("amp", "half", "fp16", "bf16"),
    "--accelerator cuda --devices 1": ("device", "gpu", "gpus", "cuda"),
    "--runtime": ("device", "gpu", "gpus", "cuda", "backend", "engine"),
    "--save yolo": ("save-txt",),
    "--save coco": ("save-json",),
    "--save crops": ("save-crop",),
    "--save": ("save-csv", "save-img", "nosave"),
    "--set patience=N": ("patience",),
    "--set KEY=VALUE": ("hyp", "mosaic", "mixup", "optimizer", "weight-decay", "cos-lr", "close-mosaic"),
    "--stride": ("vid-stride",),
    "--show": ("view-img",),
    "--to": ("format", "include"),
    "--int8": ("quantize",),
    "--workers": ("num-workers", "nproc"),
    "--config": ("opt-file", "args-file"),
}
"""What to write here → names elsewhere, without dashes; the first one that a command has is meant."""
_ALONE = ("source", "input", "data", "data-path", "dataset", "images", "img-path", "path")
"""Names elsewhere of what stands alone here."""
_PAIR = re.compile(r"([a-z][a-z0-9_-]*)=(.*)", re.DOTALL)


def check_habits(command: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Raises ConfigError where a word is another tool's name of something that ``command`` has.

    Args:
        command: its parser.
        words: behind the command's name.
    """
    known = command._option_string_actions
    words = words[: words.index("--")] if "--" in words else words
    # As they come, with the word before, since a word behind an option is that option's value.
    for before, word in zip(["", *words], words, strict=False):
        name = word.partition("=")[0]
        if name.startswith("--") and name not in known:
            hint = _hint(command, name[2:].replace("_", "-"))
            if hint:
                raise ConfigError(f"{command.prog} has no {name}: {hint}")
        pair = _PAIR.fullmatch(word)
        # An option's value may be a pair, and so may a file's name. (Every start would pay for pathlib's import.)
        if pair is None or before.startswith("-") or os.path.exists(word):
            continue
        own, value = f"--{pair[1].replace('_', '-')}", pair[2]
        hint = f"write {own} {value}" if own in known else _hint(command, own[2:])
        if hint:
            raise ConfigError(f"{command.prog} takes no pairs such as {word}: {hint}")


def _hint(command: argparse.ArgumentParser, name: str) -> str:
    """What phidet calls it; "" where the command has nothing of the kind."""
    # One word may mean several options here: what this command has is meant, as "device" a runtime or an accelerator.
    for ours, names in _NAMES.items():
        if name in names and ours.split()[0] in command._option_string_actions:
            return f"phidet calls it {ours}"
    if name in _NAMES["--image-size"]:
        return "the input size is the model's own: phidet export --image-size, phidet train --image-size"
    alone = next((a.metavar for a in command._actions if not a.option_strings and isinstance(a.metavar, str)), None)
    if name in _ALONE and alone is not None:
        return f"{alone} stands alone, as in: {command.prog} {alone}"
    return ""
