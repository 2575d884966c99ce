"""Cancel a task at its n-th await, for every n, in the ways that are the hardest to survive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

#: Cancel when the task begins to wait; when what it waits for has come, and before it is told;
#: and a second time while it cleans up after the first.
BEFORE, AFTER, TWICE = "before", "after", "twice"


class Interruption:
    """Awaits a coroutine, and cancels the task that does so at a certain await."""

    def __init__(self, work: Coroutine[Any, Any, Any], number: int, way: str) -> None:
        self._work = work
        self._number = number
        self._way = way
        self._count = 0

    @property
    def happened(self) -> bool:
        """Whether there were as many awaits."""
        return self._count >= self._number

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                waits_for = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value
            self._count += 1
            self._maybe_cancel(waits_for)
            value = error = None
            try:
                value = yield waits_for
            except BaseException as exc:
                error = exc

    def _maybe_cancel(self, waits_for: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        again = self._way == TWICE and self._count == self._number + 1
        if self._count != self._number and not again:
            return
        if self._way == AFTER and waits_for is not None:
            # This callback comes before the task's own, which tells it to go on.
            waits_for.add_done_callback(lambda _future: task.cancel())
        else:
            task.cancel()


async def cancelled_everywhere(
    work: Callable[[int], Coroutine[Any, Any, Any]], way: str, step: int = 1
) -> AsyncIterator[bool]:
    """Run ``work(number)`` and cancel it at its first await, the next time at its second...

    Yields each time whether it was cancelled, when it is over; the last time it was not. Any
    other error is raised.
    """
    number, happened = 0, True
    while happened:
        number += step
        interruption = Interruption(work(number), number, way)

        async def run(it: Interruption = interruption) -> Any:
            return await it

        task = asyncio.create_task(run())
        await asyncio.wait([task])
        is_cancelled, happened = task.cancelled(), interruption.happened
        if not is_cancelled:
            task.result()
        # The error has frames, and these have what was not cleaned up but let go.
        del task, interruption, run
        yield is_cancelled
