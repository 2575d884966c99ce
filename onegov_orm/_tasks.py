"""Work that a cancelled task brings to its end first, such as a commit that is on its way."""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: The tasks that do something on behalf of another one, which waits for them.
_principals: weakref.WeakKeyDictionary[asyncio.Task[Any], weakref.ref[asyncio.Task[Any]]] = (
    weakref.WeakKeyDictionary()
)


def current_task() -> asyncio.Task[Any] | None:
    """Return the asyncio task that something is done for here, None outside an event loop."""
    # Outside a loop, asyncio.current_task() would raise and be caught on every request.
    loop = asyncio._get_running_loop()
    if loop is None:
        return None
    task = asyncio.current_task(loop)
    if task is None or not _principals:
        return task
    principal = _principals.get(task)
    return task if principal is None else principal()


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await the work to its end, even if this task is cancelled in the meantime.

    It runs in a task that stands in for this one: it has the same sessions, and what it sets
    in ContextVars is set here. A cancellation is raised after it.
    """
    principal = current_task()
    context = contextvars.copy_context()

    async def stand_in() -> T:
        agent = asyncio.current_task()
        if agent is not None and principal is not None:
            _principals[agent] = weakref.ref(principal)
        return await work

    agent = asyncio.get_running_loop().create_task(stand_in(), context=context)
    cancelled = await _wait(agent)
    _take_over(context)
    if cancelled is not None:
        if not agent.cancelled() and (error := agent.exception()) is not None:
            raise cancelled from error
        raise cancelled
    return agent.result()


async def _wait(agent: asyncio.Task[Any]) -> asyncio.CancelledError | None:
    cancelled = None
    while not agent.done():
        try:
            # Other than awaiting the task, this leaves it alone when it is cancelled itself.
            await asyncio.wait([agent])
        except asyncio.CancelledError as exc:
            cancelled = exc
    return cancelled


def _take_over(context: contextvars.Context) -> None:
    before = contextvars.copy_context()
    for variable, value in context.items():
        if before.get(variable, _take_over) is not value:
            variable.set(value)
