"""The synchronous manager: one engine, and sessions that each work in one schema."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import iscoroutine, iscoroutinefunction
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import transaction as zope_transaction
from transaction import TransactionManager

from onegov_orm._engine import DEFAULT_ISOLATION_LEVEL
from onegov_orm._manager import MAX_LAG_SECONDS
from onegov_orm._scoped import ScopedSessions, access_of
from onegov_orm._standing import DEFAULT_MAX_SCHEMAS
from onegov_orm._tasks import current_task
from onegov_orm._units import own_transactions
from onegov_orm.errors import ConfigurationError
from onegov_orm.names import EXTENSIONS_SCHEMA, SHARED_SCHEMA
from onegov_orm.replicas import ReplicaStatus, in_thread
from onegov_orm.transactions import Attempt, attempts, can_swap
from onegov_orm.typing import DeclarativeBase, IsolationLevel

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine
    from sqlalchemy.orm import Session


class SessionManager(ScopedSessions):
    """Gives each customer's schema its sessions, on one engine.

    ::

        mgr = SessionManager('postgresql://localhost/towns', Base)
        mgr.set_current_schema('towns-bern')
        mgr.session().add(Resident(name='Ada'))
        transaction.commit()

    :param dsn: the database's URL, for psycopg2 (``postgresql://``) or psycopg 3
        (``postgresql+psycopg://``).
    :param base: the declarative base of the models; more go into `bases`.
    :param engine_config: given to `sqlalchemy.create_engine`.
    :param session_config: given to `sqlalchemy.orm.sessionmaker`.
    :param pool_config: replaces the pool's settings (five connections and ten in a rush).
    :param isolation_level: of all transactions; weaker ones than SERIALIZABLE only here.
    :param transaction_manager: whose transactions the sessions join; None for sessions that
        commit and roll back by themselves.
    :param keep_session: keep the objects of a joined session usable after the transaction.
    :param strict: raise `SearchPathMoved` where a moved search path would be mended with a
        warning. Servers before PostgreSQL 18 do not report such moves.
    :param pipeline: with psycopg 3, send the first statement together with ``BEGIN``: a round
        trip less, for more work in the process. By default this is done for a server on
        another machine. psycopg2 always does it, at no cost.
    :param reserved: more names that no customer may have.
    :param extensions_schema: where the extensions live.
    :param shared_schema: where the tables live that all customers share.
    :param migrations: the folder of an Alembic environment, whose newest revision new
        schemas are stamped with.
    :param pooler: ``'external'`` behind a PgBouncer, also in transaction mode: no pool of our
        own, nothing that outlives a transaction.
    :param replicas: URLs of streaming replicas, where reading sessions read.
    :param max_lag_seconds: how old the data of a replica may be, in seconds.
    :param trace_connections: note where in the program each connection was taken, for the
        message of `PoolExhausted`; it costs some 10 microseconds per transaction.
    :param upgrades: modules with upgrade tasks, or their names; None: those of the entry
        point ``onegov_upgrades``. A new schema starts with all of them done.
    :param max_schemas_per_connection: after so many customers a connection is closed, for
        what the server's process keeps of each, some 0.4 MB.
    :param scopes: names of scopes, whose observers run besides those without a scope; see
        `observes`.

    Raises `ConfigurationError` and `UnsupportedDatabase`. Nothing is connected yet.
    """

    def __init__(
        self,
        dsn: str | URL,
        base: DeclarativeBase,
        engine_config: Mapping[str, Any] | None = None,
        session_config: Mapping[str, Any] | None = None,
        pool_config: Mapping[str, Any] | None = None,
        *,
        isolation_level: IsolationLevel = DEFAULT_ISOLATION_LEVEL,
        transaction_manager: Any | None = zope_transaction.manager,
        keep_session: bool = False,
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
        super().__init__(
            dsn,
            base,
            engine_config,
            session_config,
            pool_config,
            isolation_level=isolation_level,
            transaction_manager=transaction_manager,
            keep_session=keep_session,
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
        self.engine: Engine = self.sync_engine
        self._begin_scopes()

    # -- the current schema and its sessions

    def set_current_schema(self, schema: str, *, create: bool = True) -> None:
        """Make the schema current in this thread or task; a new one is created.

        This is the active manager from then on. With ``create=False`` an unknown schema raises
        `SchemaNotFound`, and nothing is made. Raises `InvalidSchemaName` before anything is
        sent to the server.
        """
        name = self.parse_schema(schema)
        self._operations.admit(name, create)
        self._current.schema = name
        self.set_active()

    def session(self) -> Session:
        """Return the session of the current schema in this thread or task.

        Raises `NoCurrentSchema`. The session takes no connection before its first statement.
        """
        session: Session = self._session()
        return session

    def reader(self, *, deferrable: bool = False) -> Session:
        """Return the session that reads in the current schema, beside the one that writes.

        It can't write: it raises `ReadOnlySession`, and the server refuses. It reads from a
        replica if there is one that is fresh enough, and has what this thread or task
        committed. With ``deferrable=True`` it waits for a serializable snapshot on the primary
        that no other transaction can make fail: for long reports.
        """
        session: Session = self._session(access_of(True, deferrable))
        return session

    @contextmanager
    def schema(
        self,
        schema: str,
        *,
        create: bool = True,
        readonly: bool = False,
        deferrable: bool = False,
    ) -> Iterator[Session]:
        """Work in a schema: a unit of work of its own, as a block or a decorator.

        Yields the session; `reader` gives another one beside it. Commits at the end, aborts
        on an exception, closes the sessions, runs the post-processing, and makes current what
        was current before. A block inside a block is on its own: it commits or aborts without
        the outer one. With ``readonly=True`` the block can't write, and an unknown schema
        raises `SchemaNotFound`; for ``deferrable=True`` see `reader`.
        """
        name = self.parse_schema(schema)
        access = access_of(readonly, deferrable)
        self._operations.admit(name, create and access is None)
        joins = can_swap(self.transaction_manager) and current_task() is None
        with self._entered(name, joins, access) as unit:
            try:
                with self._joined_transaction() if joins else own_transactions(unit):
                    yield self.session()
            finally:
                unit.close()

    # -- transactions

    def attempts(self, tries: int = 3) -> Iterator[Attempt]:
        """Try a transaction again when it failed for reasons that go away.

        ::

            for attempt in mgr.attempts():
                with attempt as session:
                    ...

        Each attempt commits at the end of its block, or aborts. Tried again are
        serialization failures, deadlocks and changed cached plans, at the most ``tries``
        times in all, with a growing and random wait between; any other error is raised.
        """
        return attempts(tries, self._transaction)

    @contextmanager
    def disable_change_signals(self) -> Iterator[None]:
        """Announce no changes made inside the block, not in ``on_commit`` either.

        What was changed before the block is flushed, and announced, before it; what was
        changed inside is flushed at its end.
        """
        self._flush()
        with super().disable_change_signals():
            yield
            self._flush()

    # -- schemas on the database

    def list_schemas(self, namespace: str | None = None) -> list[str]:
        """Return the customers' schemas, sorted; with a namespace, those of that namespace."""
        return self._operations.list(namespace)

    def is_schema_found_on_database(self, schema: str) -> bool:
        """Tell whether the schema exists."""
        return self._operations.is_found(schema)

    def create_schema(self, schema: str, validate: bool = True) -> None:
        """Create an empty schema; raises `SchemaExists` or `PermissionDenied`.

        ``validate=False`` lets reserved names through, and nothing else.
        """
        self._operations.create(schema, validate)

    def create_schema_if_not_exists(self, schema: str, validate: bool = True) -> None:
        """Create an empty schema, unless it exists."""
        self._operations.create_if_not_exists(schema, validate)

    def ensure_schema_exists(self, schema: str) -> None:
        """Make sure that the schema exists, with extensions, tables and all they need.

        All of it is made in one transaction. A repeated call asks the server nothing.
        """
        self._operations.ensure(schema)

    def create_required_extensions(self) -> None:
        """Make sure that the required extensions exist."""
        self._operations.create_required_extensions()

    def check_replicas(self) -> list[ReplicaStatus]:
        """Ask the replicas now how they are; otherwise this is done in the background."""
        return self.replicas.check() if self.replicas else []

    def dispose(self) -> None:
        """Close all sessions of this thread or task, and all connections of any thread."""
        self._scopes.get().close()
        self._scopes.clear()
        self.engine.dispose()
        if self.replicas is not None:
            self.replicas.dispose()
        self._pool_events.close()
        self.deactivate()

    # -- inside

    def _launcher(self) -> Callable[[Callable[[], Any]], None]:
        return in_thread

    @staticmethod
    def _wait(awaitable: Any) -> Any:
        if iscoroutine(awaitable):
            awaitable.close()
        raise ConfigurationError(
            "a coroutine can't be awaited by a SessionManager: use an AsyncSessionManager"
        )

    def _check_hook(self, hook: Any) -> None:
        super()._check_hook(hook)
        if iscoroutinefunction(hook):
            raise ConfigurationError(
                f"{hook!r} is a coroutine function, which a SessionManager can't await: use an "
                "AsyncSessionManager"
            )

    @contextmanager
    def _joined_transaction(self) -> Iterator[None]:
        """Let the thread's transaction wait, and end one of the block's own."""
        threads: Any = self.transaction_manager
        outer = threads.manager
        inner = threads.manager = TransactionManager()
        try:
            yield
            if inner.isDoomed():
                inner.abort()
            else:
                inner.commit()
        except BaseException:
            inner.abort()
            raise
        finally:
            if threads.manager is inner:
                threads.manager = outer

    @contextmanager
    def _transaction(self) -> Iterator[Session | None]:
        """One attempt: begin, and commit or abort what runs in this thread or task."""
        store = self._store()
        manager: Any = self.transaction_manager if store.joins else None
        if manager is not None:
            manager.begin()
        else:
            store.end("rollback")
        mark = store.mark()
        try:
            yield self.session() if self.current_schema else None
            manager.commit() if manager is not None else store.end("commit")
        except BaseException:
            manager.abort() if manager is not None else store.retreat(mark)
            raise
