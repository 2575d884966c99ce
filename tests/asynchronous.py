"""Tests that are coroutines, each in an event loop of its own that has to end tidily."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

from sqlalchemy import text

from onegov_orm import AsyncSessionManager
from tests import provisioning
from tests.models import Document

BERN, BASEL = "towns-bern", "towns-basel"

#: All customers share one connection, one after the other.
ONE_CONNECTION = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 30}

#: Long enough for a slow machine; who waits longer waits for ever.
LIMIT_SECONDS = 120

_managers: ContextVar[list[AsyncSessionManager] | None] = ContextVar("managers", default=None)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test that is a coroutine function with `asyncio.run`.

    Managers of `new_async_manager` are disposed at its end, in the same loop. The test fails if
    a task is left behind, or the loop had to report an error that nobody took.
    """

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_tidily(functools.partial(test, *args, **kwargs))

    return run


def run_tidily(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine function in a new event loop; raise for what it leaves behind."""
    reports: list[str] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: reports.append(str(context))
        )
        managers: list[AsyncSessionManager] = []
        _managers.set(managers)
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                await main()
        finally:
            for manager in managers:
                await manager.dispose()
        # The drivers have tasks of their own, which tell the server to cancel a statement.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        _, left = await asyncio.wait(left, timeout=5) if left else (left, left)
        assert not left, f"tasks are left behind: {left}"

    asyncio.run(watched())
    assert not reports, f"the event loop had to report: {reports}"


def new_async_manager(*args: Any, **kwargs: Any) -> AsyncSessionManager:
    """Make a manager that is disposed at the end of the test, which has to be `in_loop`."""
    managers = _managers.get()
    assert managers is not None, "only for tests that are decorated with in_loop"
    manager = AsyncSessionManager(*args, **kwargs)
    managers.append(manager)
    return manager


async def settle(mgr: AsyncSessionManager, *names: str) -> AsyncSessionManager:
    """Make customers, each with one document that tells its owner."""
    for name in names or (BERN, BASEL):
        async with mgr.schema(name) as session:
            session.add(Document(owner=name))
    return mgr


async def where(session: Any) -> str:
    """Return the schema that the server works in."""
    name: str = await session.scalar(text("SELECT current_schema()::text"))
    return name


async def owners(mgr: AsyncSessionManager, schema: str) -> list[str]:
    """Return the owners of what is committed, read in a transaction of its own."""
    async with mgr.schema(schema) as session:
        return list(await session.scalars(text("SELECT owner FROM documents ORDER BY id")))


async def run(mgr: AsyncSessionManager, schema: str, statement: str) -> Any:
    """Run a statement in a schema, and return the first value if there is one."""
    async with mgr.schema(schema) as session:
        result = await session.execute(text(statement))
        return result.scalar() if result.returns_rows else None


def statements_of(mgr: AsyncSessionManager) -> AbstractContextManager[list[str]]:
    """Collect what the manager's engine sends."""
    synchronous = SimpleNamespace(engine=mgr.sync_engine)
    return provisioning.statements_of(synchronous)


def out(mgr: AsyncSessionManager) -> int:
    """Return how many connections are out of the pool."""
    pool: Any = mgr.sync_engine.pool
    return int(pool.checkedout())


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 there is no event for most conditions
            await asyncio.sleep(0.001)
