"""Ctrl-C at a chosen line of a part of the library."""

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class PressedAt:
    """Ctrl-C when so many lines of the sources in a folder have run; ``left`` of them have not."""

    def __init__(self, line: int, folder: str) -> None:
        self.left, self.folder = line, folder

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self.folder):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)
        return self

    def during(self, action: Callable[[], Any]) -> bool:
        """Whether it came."""
        traced, handler = sys.gettrace(), signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background commands ignore it
        sys.settrace(self)
        try:
            action()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(traced)
            signal.signal(signal.SIGINT, handler)
        return False
