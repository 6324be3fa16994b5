"""A window that shows tracked frames, through Tk, which comes with most Pythons."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from PIL import Image

from phidet.core.errors import ConfigError
from phidet.detections.sinks.base import ObjectSink

if TYPE_CHECKING:
    from phidet.detections.detections import Detections
    from phidet.detections.tracking.draw import TrackDrawer
    from phidet.images.sources import SourceImage

_LARGEST = (1280, 800)


class Window(ObjectSink):
    """A sink that shows each frame; closing the window, or the key q, ends the command as Ctrl-C does.

    Attributes:
        drawer: draws the tracks; without one, frames are shown as they are.

    Raises:
        ConfigError: there is no screen, or no Tk.
    """

    def __init__(self) -> None:
        self.drawer: TrackDrawer | None = None
        try:
            tk = import_module("tkinter")
            self._image_tk: Any = import_module("PIL.ImageTk")
        except ImportError as error:
            raise ConfigError(
                f"--show needs Tk, which this Python lacks ({error}): apt-get install python3-tk"
            ) from None
        try:
            self._root = tk.Tk()
        # No display, as over SSH or in a container: known only when a window is asked for.
        except tk.TclError as error:
            raise ConfigError(
                f"--show needs a screen: {error}; the live page shows frames, too: phidet serve"
            ) from None
        self._closed = False
        self._root.title("phidet track")
        self._root.protocol("WM_DELETE_WINDOW", self._close)
        self._root.bind("q", lambda _: self._close())
        self._label = tk.Label(self._root, borderwidth=0)
        self._label.pack()

    def add(self, item: SourceImage, found: Detections) -> None:
        """Shows a frame.

        Raises:
            KeyboardInterrupt: the window was closed.
        """
        drawn = Image.fromarray(item.image)
        if self.drawer is not None:
            drawn = self.drawer.draw(item.image, found, item.time_s or 0.0)
        drawn.thumbnail(_LARGEST)
        photo = self._image_tk.PhotoImage(drawn, master=self._root)
        self._label.configure(image=photo)
        self._label.image = photo  # Tk does not keep it
        # Handles what the user did since the last frame; there is no main loop that would.
        self._root.update()
        if self._closed:
            raise KeyboardInterrupt

    def keep(self) -> str:
        self.discard()
        return ""

    def discard(self) -> None:
        """Closes the window."""
        if self._root is not None:
            self._root.destroy()
            self._root = None

    def _close(self) -> None:
        self._closed = True
