"""Runs a test with each driver, the asynchronous one too, and on the older server with one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import transaction
from sqlalchemy import text
from sqlalchemy.orm import Session

from onegov_orm import AsyncSessionManager, SessionManager

VARIANTS = ["newest-psycopg2", "newest-psycopg", "newest-asyncpg", "older-psycopg2"]

#: West and east of Greenwich, and not a whole number of hours away.
TIME_ZONES = ("UTC", "America/New_York", "Asia/Kathmandu")

SCHEMA = "towns-bern"


class Typed:
    """Gives sessions of one manager, and takes back what they did."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager
        manager.set_current_schema(SCHEMA)

    def run(self, function: Callable[[Session], None]) -> None:
        """Call a function with a session."""
        try:
            function(self._manager.session())
        finally:
            transaction.abort()

    def close(self) -> None:
        """Close the connections."""
        self._manager.dispose()


class AsyncTyped:
    """The same for asyncpg: the function runs in SQLAlchemy's greenlet."""

    def __init__(self, dsn: str, base: Any) -> None:
        self._runner = asyncio.Runner()
        self._manager = self._runner.run(self._started(dsn, base))

    def run(self, function: Callable[[Session], None]) -> None:
        """Call a function with a session."""
        self._runner.run(self._run(function))

    def close(self) -> None:
        """Close the connections and the loop."""
        self._runner.run(self._manager.dispose())
        self._runner.close()

    async def _started(self, dsn: str, base: Any) -> AsyncSessionManager:
        return AsyncSessionManager(dsn, base)

    async def _run(self, function: Callable[[Session], None]) -> None:
        async with self._manager.schema(SCHEMA) as session:
            try:
                await session.run_sync(function)
            finally:
                await session.rollback()


def typed_fixture(base: Any) -> Any:
    """Return the fixture that a module's tests `with_session` run with."""

    @pytest.fixture(scope="module", params=VARIANTS)
    def typed(request: pytest.FixtureRequest) -> Iterator[Typed | AsyncTyped]:
        server, driver = request.param.split("-")
        databases = request.getfixturevalue(server)
        name = databases.create()
        dsn = databases.server.dsn(name, driver=driver, tcp=False)
        given = AsyncTyped(dsn, base) if driver == "asyncpg" else Typed(SessionManager(dsn, base))
        yield given
        given.close()
        databases.drop(name)

    return typed


def with_session(test: Callable[..., None]) -> Callable[..., None]:
    """Give a session to a test that has it as a parameter, of each variant."""

    def run(typed: Typed | AsyncTyped, **others: Any) -> None:
        typed.run(lambda session: test(session, **others))

    signature = inspect.signature(test)
    others = [each for each in signature.parameters.values() if each.name != "session"]
    own = inspect.Parameter("typed", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(parameters=[own, *others])  # type: ignore[attr-defined]
    run.__name__, run.__module__, run.__qualname__ = (
        test.__name__,
        test.__module__,
        test.__qualname__,
    )
    run.pytestmark = getattr(test, "pytestmark", [])  # type: ignore[attr-defined]
    return run


def set_time_zone(session: Session, zone: str) -> None:
    """Set the time zone of the session's transaction."""
    session.execute(text("SELECT set_config('TimeZone', :zone, true)"), {"zone": zone})


def kept(session: Session, obj: Any) -> Any:
    """Write an object, forget what is known of it, and return it."""
    session.add(obj)
    session.flush()
    session.expire(obj)
    return obj
