"""One way to use both managers, so that a test about drivers is written once.

What is to be done in a schema is a function of a synchronous session; an asynchronous manager
runs it in SQLAlchemy's greenlet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from onegov_orm import AsyncSessionManager, SessionManager
from tests.models import Base

T = TypeVar("T")
Work = Callable[[Any], T]

#: Each driver as it is used: synchronously or not, psycopg 3 also as it works over a network.
CLIENTS: Final = ("psycopg2", "psycopg", "psycopg-pipeline", "asyncpg", "psycopg_async")


class Client:
    """A manager and its driver."""

    is_async = False

    def __init__(self, name: str, dsn: str, **options: Any) -> None:
        self.name = name
        self.driver = name.removesuffix("_async").removesuffix("-pipeline")
        if name.endswith("pipeline"):
            options.setdefault("pipeline", True)
        self.manager = self._make(dsn, options)

    def run(self, schema: str, work: Work[T], **options: Any) -> T:
        """Do something in a block of the schema, and return what it returns."""
        with self.manager.schema(schema, **options) as session:
            return work(session)

    def attempt(self, schema: str, work: Work[T]) -> T:
        """Do something in a schema, up to five times."""
        self.manager.set_current_schema(schema)
        for attempt in self.manager.attempts(5):
            with attempt as session:
                result = work(session)
        return result

    def connect(self, work: Work[T], **options: Any) -> T:
        """Do something with a connection of the engine's own."""
        with self.manager.engine.execution_options(**options).connect() as connection:
            return work(connection)

    def close(self) -> None:
        """Let go of everything."""
        self.manager.dispose()

    def _make(self, dsn: str, options: dict[str, Any]) -> Any:
        return SessionManager(dsn, Base, transaction_manager=None, **options)


class AsyncClient(Client):
    """The same with an asynchronous manager, in an event loop of its own."""

    is_async = True

    def run(self, schema: str, work: Work[T], **options: Any) -> T:
        async def main() -> T:
            async with self.manager.schema(schema, **options) as session:
                return await session.run_sync(work)

        return self.runner.run(main())

    def attempt(self, schema: str, work: Work[T]) -> T:
        async def main() -> T:
            await self.manager.set_current_schema(schema)
            async for attempt in self.manager.attempts(5):
                async with attempt as session:
                    result = await session.run_sync(work)
            return result

        return self.runner.run(main())

    def connect(self, work: Work[T], **options: Any) -> T:
        async def main() -> T:
            async with self.manager.engine.execution_options(**options).connect() as connection:
                return await connection.run_sync(work)

        return self.runner.run(main())

    def close(self) -> None:
        self.runner.run(self.manager.dispose())
        self.runner.close()

    def _make(self, dsn: str, options: dict[str, Any]) -> Any:
        self.runner = asyncio.Runner()
        return AsyncSessionManager(dsn, Base, **options)


def new_client(name: str, dsn: str, **options: Any) -> Client:
    """Make one; has to be closed."""
    kind = AsyncClient if name in ("asyncpg", "psycopg_async") else Client
    return kind(name, dsn, **options)


def driver_of(name: str) -> str:
    """Return the name of the driver, as it stands in a URL."""
    return name.removesuffix("_async").removesuffix("-pipeline")
