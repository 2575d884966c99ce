"""Where in the program something happens, for messages that help to find a leak."""

from __future__ import annotations

import os
import sys
from asyncio import base_events
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import sqlalchemy

from onegov_orm._tasks import waiting_principal

#: Frames of these are how, not who.
_LIBRARIES: Final = tuple(
    os.path.join(os.path.dirname(os.path.abspath(name)), "")
    for name in (__file__, sqlalchemy.__file__, os.__file__)
)
_INSTALLED: Final = f"{os.sep}site-packages{os.sep}"
_MOST_FRAMES: Final = 3


def place() -> str | None:
    """Return the innermost lines of the program that led here, None if there are none.

    A line looks like ``views.py:12 in list_towns``; the innermost one comes first.
    """
    lines: list[str] = []
    for frame in _frames():
        code = frame.f_code
        if code.co_filename.startswith((*_LIBRARIES, "<")) or _INSTALLED in code.co_filename:
            continue
        lines.append(f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}")
        if len(lines) == _MOST_FRAMES:
            break
    return ", from ".join(lines) or None


def _frames() -> Iterator[FrameType]:
    """Yield the frames from here outwards; asynchronous code waits in a parent greenlet."""
    frame: FrameType | None = sys._getframe(1)
    # Who uses no asyncio need not have greenlet.
    greenlets = sys.modules.get("greenlet")
    current = greenlets.getcurrent() if greenlets is not None else None
    # What started the event loop has nothing to do with the task.
    while frame is not None and frame.f_code.co_filename != base_events.__file__:
        yield frame
        frame = frame.f_back
        if frame is None and current is not None and current.parent is not None:
            current = current.parent
            frame = current.gr_frame
    principal = waiting_principal()
    if principal is not None:
        yield from reversed(list(_suspended(principal.get_coro())))


def _suspended(coroutine: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine that waits, from the outermost inwards."""
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        yield frame
        coroutine = coroutine.cr_await
