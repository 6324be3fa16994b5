"""Data whose objects a generator learns: of a detection data set, or whole images of a folder."""

from __future__ import annotations

from pathlib import Path

from phidet.core.errors import InputError
from phidet.data.class_folders import open_class_folders
from phidet.data.crops import whole_images
from phidet.data.data_folder import Layout
from phidet.data.dataset import Dataset
from phidet.data.layouts import open_data, read_images
from phidet.data.listing import files_below, is_image


def read_objects(path: str | Path, layout: Layout | None = None, split: str | None = None) -> Dataset:
    """The split to train on of data in any layout; of folders for classes; or all images of a folder, of one class.

    Args:
        path: the data.
        layout: recognised unless given.
        split: its name; the training split unless given.

    Raises:
        InputError: there is nothing that could be read.
        UnknownNameError: no such split.
    """
    path = Path(path)
    try:
        folder = open_data(path, layout)
    # Folders of classes are not recognised by themselves, and images alone need no labels at all.
    except InputError as error:
        if not path.is_dir() or layout is not None:
            raise
        try:
            folder = open_class_folders(path)
        except InputError:
            if next(iter(files_below(path, is_image)), None) is None:
                raise error from None
            return whole_images(read_images(path))
    return folder.read(split or folder.train_split())
