"""A forked child never talks on the sockets of its parent."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What has connections that a child must let go of."""

    def let_go_after_fork(self) -> None:
        """Forget all connections without a word to the server."""


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
_is_registered = False


def watch(forkable: Forkable) -> None:
    """Have the object let go of its connections in each child that is forked from now on."""
    global _is_registered
    _watched.add(forkable)
    if not _is_registered:
        _is_registered = True
        os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    for forkable in list(_watched):
        forkable.let_go_after_fork()
