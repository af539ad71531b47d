"""A line that shows that a long step is alive."""

import shutil
import sys
import threading
import time


class StatusLine:
    """Title, elapsed time and a note; a context manager.

    On a terminal the line is rewritten every second. Elsewhere (a log, CI) it is
    printed at the start, every half minute, and at the end.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.note = ""  # set it at any time
        self.started = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "StatusLine":
        self._draw()
        self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._clock.join()
        self._draw()
        if self._terminal:
            print()

    @property
    def elapsed(self) -> str:
        """Minutes and seconds since the start, as 1:05."""
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{minutes}:{seconds:02d}"

    def _run(self) -> None:
        while not self._ended.wait(1 if self._terminal else 30):
            self._draw()

    def _draw(self) -> None:
        text = f"  {self.title}  {self.elapsed:>5}  {self.note}".rstrip()
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print("\r\033[K" + text[:width], end="", flush=True)
        else:
            print(text, flush=True)
