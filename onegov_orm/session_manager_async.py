"""The asynchronous manager: the same engine, sessions and decisions under asyncio.

What waits for the server is written once, synchronously, and runs here in SQLAlchemy's
greenlet, where the driver is awaited.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only, greenlet_spawn

from onegov_orm._attempts import AsyncAttempt, async_attempts
from onegov_orm._engine import DEFAULT_ISOLATION_LEVEL
from onegov_orm._manager import MAX_LAG_SECONDS, with_base
from onegov_orm._prelude import Access
from onegov_orm._scoped import ScopedSessions, access_of
from onegov_orm._session import SchemaSession
from onegov_orm._session_async import (
    AsyncSchemaSession,
    AsyncSessionFactory,
    async_engine,
    shell_of,
    synchronous,
)
from onegov_orm._standing import DEFAULT_MAX_SCHEMAS
from onegov_orm._tasks import current_task, uninterrupted
from onegov_orm._units import SessionStore, Unit
from onegov_orm.names import EXTENSIONS_SCHEMA, SHARED_SCHEMA, SchemaName
from onegov_orm.replicas import ReplicaStatus
from onegov_orm.typing import DeclarativeBase, IsolationLevel

if TYPE_CHECKING:
    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

logger = logging.getLogger("onegov_orm.sessions")


class AsyncSessionManager(ScopedSessions):
    """Gives each customer's schema its sessions, under asyncio.

    ::

        mgr = AsyncSessionManager('postgresql+asyncpg://localhost/towns', Base)
        async with mgr.schema('towns-bern') as session:
            session.add(Resident(name='Ada'))

    Options, signals and errors are those of `SessionManager`, and the drivers are asyncpg
    (``postgresql+asyncpg://``, and plain ``postgresql://``) and psycopg 3
    (``postgresql+psycopg://``). The ``transaction`` package knows no tasks: the sessions here
    commit and roll back by themselves, best by a block of `schema`.

    Sessions belong to their task. A task that is started inside a block inherits the current
    schema, and gets sessions of its own. A manager belongs to one event loop.
    """

    _is_async: ClassVar[bool] = True

    def __init__(
        self,
        dsn: str | URL,
        base: DeclarativeBase,
        engine_config: Mapping[str, Any] | None = None,
        session_config: Mapping[str, Any] | None = None,
        pool_config: Mapping[str, Any] | None = None,
        *,
        isolation_level: IsolationLevel = DEFAULT_ISOLATION_LEVEL,
        strict: bool = False,
        pipeline: bool | None = None,
        reserved: Collection[str] = (),
        extensions_schema: str = EXTENSIONS_SCHEMA,
        shared_schema: str = SHARED_SCHEMA,
        migrations: str | os.PathLike[str] | None = None,
        pooler: Literal["external"] | None = None,
        replicas: Iterable[str | URL] = (),
        max_lag_seconds: float = MAX_LAG_SECONDS,
        trace_connections: bool = False,
        upgrades: Iterable[str | ModuleType] | None = None,
        max_schemas_per_connection: int = DEFAULT_MAX_SCHEMAS,
        scopes: Collection[str] = (),
    ) -> None:
        self._background = Background()
        super().__init__(
            dsn,
            base,
            engine_config,
            session_config,
            pool_config,
            isolation_level=isolation_level,
            strict=strict,
            pipeline=pipeline,
            reserved=reserved,
            extensions_schema=extensions_schema,
            shared_schema=shared_schema,
            migrations=migrations,
            pooler=pooler,
            replicas=replicas,
            max_lag_seconds=max_lag_seconds,
            trace_connections=trace_connections,
            upgrades=upgrades,
            max_schemas_per_connection=max_schemas_per_connection,
            scopes=scopes,
        )
        self.engine: AsyncEngine = async_engine(self.sync_engine)
        self._begin_scopes()

    # -- the current schema and its sessions

    async def set_current_schema(self, schema: str, *, create: bool = True) -> None:
        """Make the schema current in this task; a new one is created.

        This is the active manager from then on. With ``create=False`` an unknown schema raises
        `SchemaNotFound`, and nothing is made. Raises `InvalidSchemaName` before anything is
        sent to the server.
        """
        name = self.parse_schema(schema)
        await self._admit(name, create)
        self._current.schema = name
        self.set_active()

    def session(self) -> AsyncSession:
        """Return the session of the current schema in this task.

        Raises `NoCurrentSchema`. The session takes no connection before its first statement.
        """
        session: AsyncSession = self._session()
        return session

    def reader(self, *, deferrable: bool = False) -> AsyncSession:
        """Return the session that reads in the current schema, beside the one that writes.

        See `SessionManager.reader`.
        """
        session: AsyncSession = self._session(access_of(True, deferrable))
        return session

    @asynccontextmanager
    async def schema(
        self,
        schema: str,
        *,
        create: bool = True,
        readonly: bool = False,
        deferrable: bool = False,
    ) -> AsyncIterator[AsyncSession]:
        """Work in a schema: a unit of work of its own, as a block or a decorator.

        See `SessionManager.schema`. A cancellation inside the block aborts it; one that comes
        when the commit is on its way waits for the commit and the post-processing.
        """
        name = self.parse_schema(schema)
        access = access_of(readonly, deferrable)
        await self._admit(name, create and access is None)
        with self._entered(name, joins=False, access=access) as unit:
            try:
                yield self.session()
            except BaseException:
                await self._finish(unit, is_successful=False)
                raise
            await self._finish(unit, is_successful=True)

    def attempts(self, tries: int = 3) -> AsyncIterator[AsyncAttempt]:
        """Try a transaction again when it failed for reasons that go away.

        ::

            async for attempt in mgr.attempts():
                async with attempt as session:
                    ...

        See `SessionManager.attempts`.
        """
        return async_attempts(tries, self._transaction)

    @asynccontextmanager
    async def disable_change_signals(self) -> AsyncIterator[None]:  # type: ignore[override]
        """Announce no changes made inside the block, not in ``on_commit`` either.

        What was changed before the block is flushed, and announced, before it; what was
        changed inside is flushed at its end.
        """
        await greenlet_spawn(self._flush)
        with super().disable_change_signals():
            yield
            await greenlet_spawn(self._flush)

    # -- schemas on the database

    async def list_schemas(self, namespace: str | None = None) -> list[str]:
        """Return the customers' schemas, sorted; with a namespace, those of that namespace."""
        return await greenlet_spawn(self._operations.list, namespace)

    async def is_schema_found_on_database(self, schema: str) -> bool:
        """Tell whether the schema exists."""
        return await greenlet_spawn(self._operations.is_found, schema)

    async def create_schema(self, schema: str, validate: bool = True) -> None:
        """Create an empty schema; raises `SchemaExists` or `PermissionDenied`.

        ``validate=False`` lets reserved names through, and nothing else.
        """
        await greenlet_spawn(self._operations.create, schema, validate)

    async def create_schema_if_not_exists(self, schema: str, validate: bool = True) -> None:
        """Create an empty schema, unless it exists."""
        await greenlet_spawn(self._operations.create_if_not_exists, schema, validate)

    async def ensure_schema_exists(self, schema: str) -> None:
        """Make sure that the schema exists, with extensions, tables and all they need.

        All of it is made in one transaction. A repeated call asks the server nothing.
        """
        await self._admit(self.parse_schema(schema), create=True)

    async def create_required_extensions(self) -> None:
        """Make sure that the required extensions exist."""
        await greenlet_spawn(self._operations.create_required_extensions)

    async def check_replicas(self) -> list[ReplicaStatus]:
        """Ask the replicas now how they are; otherwise this is done in the background."""
        return await greenlet_spawn(self.replicas.check) if self.replicas else []

    async def dispose(self) -> None:
        """Close all sessions of this task, and all connections of any task."""
        await self._background.stop()
        await greenlet_spawn(self._scopes.get().close)
        self._scopes.clear()
        await self.engine.dispose()
        if self.replicas is not None:
            await greenlet_spawn(self.replicas.dispose)
        self._pool_events.close()
        self.deactivate()

    def let_go_after_fork(self) -> None:
        """Start without connections, sessions and tasks, in a forked child."""
        self._background.forget()
        super().let_go_after_fork()

    # -- inside

    async def _admit(self, schema: SchemaName, create: bool) -> None:
        if not self._operations.is_admitted(schema, create):
            await greenlet_spawn(self._operations.admit, schema, create)

    async def _finish(self, unit: Unit, is_successful: bool) -> None:
        """End a unit of work: to its end if that has consequences, without waiting if it can."""
        if unit.has_consequences:
            await uninterrupted(greenlet_spawn(unit.finish, is_successful))
        elif unit.is_untouched:
            unit.finish(is_successful)
        else:
            await greenlet_spawn(unit.finish, is_successful)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncSession | None]:
        """One attempt: begin, and commit or abort what runs in this task."""
        store = self._store()
        await greenlet_spawn(store.end, "rollback")
        mark = store.mark()
        try:
            yield self.session() if self.current_schema else None
            await uninterrupted(greenlet_spawn(store.end, "commit"))
        except BaseException:
            await uninterrupted(greenlet_spawn(store.retreat, mark))
            raise

    def _new_store(self) -> SessionStore:
        store = SessionStore(joins=False)
        task = current_task()
        if task is not None:
            task.add_done_callback(partial(_close_later, self._background, store))
        return store

    def _launcher(self) -> Callable[[Callable[[], Any]], None]:
        return self._background.launch

    @staticmethod
    def _wait(awaitable: Any) -> Any:
        return await_only(awaitable)

    @staticmethod
    def _shell(value: Any) -> Any:
        return shell_of(value)

    def _synchronous(self, session: Any) -> Any:
        return synchronous(session)

    def _derive_engine(self, schema: SchemaName, access: Access | None) -> Any:
        return async_engine(super()._derive_engine(schema, access))

    def _session_bases(self, config: dict[str, Any]) -> tuple[type[Any], ...]:
        bases = with_base(AsyncSchemaSession, AsyncSession, config.pop("class_", AsyncSession))
        config["class_"] = type("AsyncSchemaSession", bases, {})
        return with_base(SchemaSession, Session, config.pop("sync_session_class", Session))

    def _new_factory(self, session_class: type[Any], config: dict[str, Any]) -> Any:
        return AsyncSessionFactory(self._current_options, session_class, config)


class Background:
    """The tasks that a manager started, and nobody waits for."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def launch(self, work: Callable[[], Any]) -> None:
        """Run work that waits for the server."""
        task = asyncio.get_running_loop().create_task(greenlet_spawn(work))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The connection was lost, or is lost now: there is nothing else to be done.
            logger.warning("what ran in the background failed", exc_info=error)

    def forget(self) -> None:
        """Forget the tasks, which go on in the parent of a forked child."""
        self._tasks = set()

    async def stop(self) -> None:
        """Cancel the tasks, and wait for their ends."""
        # A task that ended just now is not heard of before the next turn of the loop.
        await asyncio.sleep(0)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _close_later(background: Background, store: SessionStore, task: asyncio.Task[Any]) -> None:
    """Give back the connections of a task that is over."""
    if not store.is_open:
        return
    for session in store.writing():
        if session.in_transaction():
            schema = session.info["schema"]
            logger.warning(
                "%s ended in a transaction of schema %s, which is rolled back: commit it, or use "
                "`async with mgr.schema(...)` in the task itself",
                task.get_name(),
                schema,
                extra={"schema": schema},
            )
    background.launch(store.close)
