"""The contestants under asyncio: each request is served in a task of its own, as web servers do.

Each contestant has an event loop that lasts as long as it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.ext.asyncio import create_async_engine as create_engine

from benchmarks.contestants import (
    BARE,
    BARE_AGAIN,
    BLOCK,
    ENGINES,
    ISOLATION_LEVEL,
    OURS,
    PIPELINE,
    Contestant,
    Plan,
    Request,
)
from benchmarks.models import RequestBase
from onegov_orm import AsyncSessionManager

#: The asynchronous drivers, and what they are called in URLs.
ASYNC_DRIVERS: Final = {"asyncpg": "asyncpg", "psycopg-async": "psycopg"}


class AsyncContestant(Protocol):
    """Serves requests of customers, several at a time."""

    @property
    def name(self) -> str: ...

    @property
    def baseline(self) -> str: ...

    async def serve(self, request: Request, schema: str, key: int) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class AsyncPlain:
    """Has sessions that commit by themselves."""

    name: str
    new_session: Callable[[str], Awaitable[AsyncSession]]
    close: Callable[[], Awaitable[None]]
    baseline: str = BARE

    async def serve(self, request: Request, schema: str, key: int) -> None:
        """Serve one request, and close its session."""
        async with await self.new_session(schema) as session:
            await request.work_async(session, key)
            if request.writes:
                await session.commit()


@dataclass(frozen=True)
class AsyncBlock:
    """Serves each request in a block, a unit of work of its own."""

    name: str
    manager: AsyncSessionManager
    baseline: str = BARE

    async def serve(self, request: Request, schema: str, key: int) -> None:
        """Serve one request."""
        async with self.manager.schema(schema) as session:
            await request.work_async(session, key)

    async def close(self) -> None:
        """Close the connections."""
        await self.manager.dispose()


class InLoop:
    """An asynchronous contestant beside synchronous ones: one request after the other."""

    def __init__(self, contestant: Any) -> None:
        self._contestant: AsyncContestant = contestant
        self._runner = asyncio.Runner()
        self.name = self._contestant.name
        self.baseline = self._contestant.baseline

    def run(self, work: Any) -> Any:
        """Run a coroutine in the contestant's loop."""
        return self._runner.run(work)

    def serve_all(self, request: Request, plan: Plan) -> None:
        """Serve a batch of requests."""
        self.run(self._serve_all(request, plan))

    async def _serve_all(self, request: Request, plan: Plan) -> None:
        serve = self._contestant.serve
        for schema, key in plan:
            await asyncio.create_task(serve(request, schema, key))

    def close(self) -> None:
        """Close the connections, and the loop."""
        self.run(self._contestant.close())
        self._runner.close()


def async_field(url: str, schemas: Sequence[str]) -> list[Contestant]:
    """Return the contestants for requests of these schemas; bare SQLAlchemy has the first."""
    contestants: list[Any] = [
        async_bare(url, schemas[0]),
        async_bare(url, schemas[0], BARE_AGAIN),
        *_ours(url),
    ]
    if make_url(url).drivername.endswith("psycopg"):
        piped = AsyncSessionManager(url, RequestBase, pipeline=True)
        contestants.append(AsyncPlain(OURS + PIPELINE, async_session_of(piped), piped.dispose))
    if len(schemas) > 1:
        contestants.append(_engines(url, schemas))
    return [InLoop(each) for each in contestants]


def fixed_async_engine(url: str, schema: str, **options: Any) -> AsyncEngine:
    """Return an engine whose connections are in one schema for good."""
    options = {"isolation_level": ISOLATION_LEVEL} | options
    path = f'"{schema}"'
    connect_args = (
        {"server_settings": {"search_path": path}}
        if make_url(url).drivername.endswith("asyncpg")
        else {"options": f"-c search_path={path}"}
    )
    return create_engine(url, connect_args=connect_args, **options)


def async_bare(url: str, schema: str, name: str = BARE, **options: Any) -> AsyncPlain:
    """Return SQLAlchemy alone, in one schema."""
    engine = fixed_async_engine(url, schema, **options)
    factory = async_sessionmaker(engine)

    async def new_session(_schema: str) -> AsyncSession:
        return factory()

    return AsyncPlain(name, new_session, engine.dispose)


def _engines(url: str, schemas: Sequence[str]) -> AsyncPlain:
    pool = {"pool_size": 1, "max_overflow": 0}
    engines = {schema: fixed_async_engine(url, schema, **pool) for schema in schemas}
    factory = async_sessionmaker()

    async def new_session(schema: str) -> AsyncSession:
        return factory(bind=engines[schema])

    async def dispose() -> None:
        for engine in engines.values():
            await engine.dispose()

    return AsyncPlain(ENGINES, new_session, dispose)


def _ours(url: str) -> list[AsyncPlain | AsyncBlock]:
    plain, block = (AsyncSessionManager(url, RequestBase) for _ in range(2))
    return [
        AsyncPlain(OURS, async_session_of(plain), plain.dispose),
        AsyncBlock(OURS + BLOCK, block),
    ]


def async_session_of(manager: AsyncSessionManager) -> Callable[[str], Awaitable[AsyncSession]]:
    """Return a function that makes a schema current and returns its session."""

    async def current_session(schema: str) -> AsyncSession:
        await manager.set_current_schema(schema)
        return manager.session()

    return current_session
