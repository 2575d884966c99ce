"""Work that a cancelled task brings to its end first, such as a commit that is on its way."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

#: The tasks that do something on behalf of another one, which waits for them.
_principals: dict[asyncio.Task[Any], asyncio.Task[Any]] = {}


def current_task() -> asyncio.Task[Any] | None:
    """Return the asyncio task that something is done for here, None outside an event loop."""
    # Outside a loop, asyncio.current_task() would raise and be caught on every request.
    loop = asyncio._get_running_loop()
    if loop is None:
        return None
    task: asyncio.Task[Any] | None = asyncio.current_task(loop)
    return _principals.get(task, task) if _principals and task is not None else task


def waiting_principal() -> asyncio.Task[Any] | None:
    """Return the task that waits for what is done here on its behalf, None if there is none."""
    task = current_task()
    return None if task is None or task is asyncio.current_task() else task


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await the work to its end, even if this task is cancelled in the meantime.

    It runs in a task that stands in for this one: it has the same sessions, and what it sets
    in ContextVars is set here. A cancellation is raised after it.
    """
    principal = current_task()
    context = contextvars.copy_context()

    async def stand_in() -> T:
        agent = asyncio.current_task()
        if agent is None or principal is None:
            return await work
        _principals[agent] = principal
        try:
            return await work
        finally:
            del _principals[agent]

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
        # Other than awaiting the task, this leaves it alone when it is cancelled itself.
        end = agent.get_loop().create_future()
        agent.add_done_callback(partial(_tell, end))
        try:
            await end
        except asyncio.CancelledError as exc:
            cancelled = exc
    return cancelled


def _tell(end: asyncio.Future[None], _agent: asyncio.Task[Any]) -> None:
    if not end.done():
        end.set_result(None)


def _take_over(context: contextvars.Context) -> None:
    for variable, value in context.items():
        if variable.get(_take_over) is not value:
            variable.set(value)
