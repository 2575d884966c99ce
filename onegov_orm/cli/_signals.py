"""Ctrl-C and SIGTERM: the first ends a command in good order, the second at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Self

from onegov_orm.cli._exits import Exit

_HANDLED: Final = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Calls a function for each of the two signals that arrives inside the block.

    The function is called in a thread, since a handler may interrupt anything, such as the
    printing of a line. ``exit_code`` tells which signal came first.
    """

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self._on_signal = on_signal
        self._previous: dict[signal.Signals, Any] = {}
        self._count = 0
        self._first: int | None = None

    @property
    def exit_code(self) -> Exit | None:
        """How the command ends, None if no signal arrived."""
        if self._first is None:
            return None
        return Exit.TERMINATED if self._first == signal.SIGTERM else Exit.INTERRUPTED

    def __enter__(self) -> Self:
        # Only the main thread may do this; elsewhere the signals are somebody else's.
        if threading.current_thread() is threading.main_thread():
            for number in _HANDLED:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._first = number if self._first is None else self._first
        self._count += 1
        threading.Thread(target=self._on_signal, args=(self._count,), daemon=True).start()
