"""Queues of idle connections in which everybody waits in turn.

Those of SQLAlchemy only wake who waits: a thread that gives a connection back and asks for one
again at once is faster, every time. Here a connection is handed to who has waited the longest.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty, Queue


class _Waiter:
    """A thread in the line."""

    def __init__(self) -> None:
        self.item: Any = None
        self.is_served = threading.Event()


class FairQueue(Queue[Any]):
    """A queue for threads."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        super().__init__(maxsize, use_lifo)
        self._line: deque[_Waiter] = deque()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Hand the item to the first in the line, or keep it."""
        with self.mutex:
            if not self._line:
                super().put(item, block, timeout)
                return
            waiter = self._line.popleft()
            waiter.item = item
            waiter.is_served.set()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return an item; raises ``Empty`` when the wait is over."""
        with self.mutex:
            if not block or self.queue:
                return super().get(False)
            waiter = _Waiter()
            self._line.append(waiter)
        try:
            waiter.is_served.wait(timeout)
        except BaseException:
            if not self._leaves(waiter):
                self.put(waiter.item, False)
            raise
        if self._leaves(waiter):
            raise Empty
        return waiter.item

    def _leaves(self, waiter: _Waiter) -> bool:
        """Take somebody out of the line; tell whether there was still nothing for it."""
        with self.mutex:
            if waiter.is_served.is_set():
                return False
            self._line.remove(waiter)
            return True


if TYPE_CHECKING:
    _Asyncio = asyncio.Queue[Any]
else:
    _Asyncio = object


class _FairTaskQueue(_Asyncio):
    """Mixed into a queue of asyncio's."""

    @cached_property
    def _line(self) -> deque[asyncio.Future[Any]]:
        return deque()

    def put_nowait(self, item: Any) -> None:
        """Hand the item to the first in the line, or keep it."""
        while self._line:
            waiter = self._line.popleft()
            # A task that is being cancelled takes nothing.
            if not waiter.done():
                waiter.set_result(item)
                return
        super().put_nowait(item)

    async def get(self) -> Any:
        """Return an item, or wait for one."""
        if not self.empty():
            return self.get_nowait()
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._line.append(waiter)
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.put_nowait(waiter.result())
            with suppress(ValueError):
                self._line.remove(waiter)
            raise


class _FairFifo(_FairTaskQueue, asyncio.Queue[Any]):
    """The connection that was idle for the longest time comes first."""


class _FairLifo(_FairTaskQueue, asyncio.LifoQueue[Any]):
    """The connection that was used last comes first."""


class FairAsyncQueue(AsyncAdaptedQueue[Any]):
    """A queue for tasks."""

    @cached_property
    def _queue(self) -> asyncio.Queue[Any]:
        return _FairLifo(self.maxsize) if self.use_lifo else _FairFifo(self.maxsize)


#: What stands in for SQLAlchemy's queues.
FAIR: Final[dict[type[Any], Callable[..., Any]]] = {
    Queue: FairQueue,
    AsyncAdaptedQueue: FairAsyncQueue,
}
