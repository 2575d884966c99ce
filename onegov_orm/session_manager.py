"""The synchronous manager: one engine, and sessions that each work in one schema."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import transaction as zope_transaction
from transaction import TransactionManager

from onegov_orm import _fork
from onegov_orm._engine import DEFAULT_ISOLATION_LEVEL
from onegov_orm._manager import BaseSessionManager
from onegov_orm._units import SessionStore, Unit
from onegov_orm.context import Scopes, current_task
from onegov_orm.errors import ConfigurationError, SchemaExists, SchemaNotFound
from onegov_orm.names import EXTENSIONS_SCHEMA, SHARED_SCHEMA, SchemaName
from onegov_orm.provisioning import create_schema, query_schemas, schema_exists
from onegov_orm.transactions import Attempt, Completion, Hook, attempts, can_swap
from onegov_orm.typing import DeclarativeBase, IsolationLevel

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection
    from sqlalchemy.orm import Session

H = TypeVar("H", bound=Hook)


class SessionManager(BaseSessionManager):
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
        )
        self._scopes = Scopes(lambda: SessionStore(self.transaction_manager is not None))
        _fork.watch(self)

    # -- the current schema and its session

    def set_current_schema(self, schema: str, *, create: bool = True) -> None:
        """Make the schema current in this thread or task; a new one is created.

        With ``create=False`` an unknown schema raises `SchemaNotFound`, and nothing is made.
        Raises `InvalidSchemaName` before anything is sent to the server.
        """
        name = self.parse_schema(schema)
        self._admit(name, create)
        self._current.schema = name

    def session(self) -> Session:
        """Return the session of the current schema in this thread or task.

        Raises `NoCurrentSchema`. The session takes no connection before its first statement.
        """
        schema = self._current.require_schema()
        session: Session = self._store().get(schema, self._make_session)
        return session

    @contextmanager
    def schema(self, schema: str, *, create: bool = True) -> Iterator[Session]:
        """Work in a schema: a unit of work of its own, as a block or a decorator.

        Yields the session. Commits at the end, aborts on an exception, closes the session,
        runs the post-processing, and makes current what was current before. A block inside a
        block is on its own: it commits or aborts without the outer one.
        """
        name = self.parse_schema(schema)
        self._admit(name, create)
        with self._unit(name):
            yield self.session()

    def bind_session(self, session: Session) -> Session:
        """Bind a session of the caller's to the current schema, and return it.

        Raises `ConfigurationError` if the session is in use for another schema.
        """
        schema = self._current.require_schema()
        bound = session.info.get("schema", schema)
        if bound != schema and (session.in_transaction() or session.identity_map):
            raise ConfigurationError(
                f'the session is in use for the schema "{bound}": close it before it is bound '
                f'to "{schema}"'
            )
        options = self.options_of(schema)
        session.bind = options["bind"]
        session.info.update(options["info"])
        return session

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

    def after_commit(self, hook: H) -> H:
        """Run the hook once, after the current transaction is committed; also a decorator.

        It is dropped if the transaction is aborted. An error in it is logged and sent to
        ``on_hook_error``, and stops nobody.
        """
        self._completion().after_commit(self.current_schema, hook)
        return hook

    def after_abort(self, hook: H) -> H:
        """Run the hook once, after the current transaction is aborted; also a decorator."""
        self._completion().after_abort(self.current_schema, hook)
        return hook

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
        with self.engine.connect() as connection:
            return list(query_schemas(connection, namespace, self.reserved))

    def is_schema_found_on_database(self, schema: str) -> bool:
        """Tell whether the schema exists."""
        with self.engine.connect() as connection:
            return schema_exists(connection, schema)

    def create_schema(self, schema: str, validate: bool = True) -> None:
        """Create an empty schema; raises `SchemaExists` or `PermissionDenied`.

        ``validate=False`` lets reserved names through, and nothing else.
        """
        name = self.parse_schema(schema) if validate else SchemaName(schema, reserved=())
        with self._provisioning(name) as connection, connection.begin():
            create_schema(connection, name)

    def create_schema_if_not_exists(self, schema: str, validate: bool = True) -> None:
        """Create an empty schema, unless it exists."""
        name = self.parse_schema(schema) if validate else SchemaName(schema, reserved=())
        if not self.is_schema_found_on_database(name):
            with suppress(SchemaExists):
                self.create_schema(name, validate)

    def ensure_schema_exists(self, schema: str) -> None:
        """Make sure that the schema exists, with extensions, tables and all they need.

        All of it is made in one transaction. A repeated call asks the server nothing.
        """
        name = self.parse_schema(schema)
        self._listen_to_bases()
        if self.provisioner.is_known(name):
            return
        with self._provisioning(name) as connection:
            self.provisioner.ensure(connection, name)

    def create_required_extensions(self) -> None:
        """Make sure that the required extensions exist."""
        neutral = self.engine.connect().execution_options(isolation_level="READ COMMITTED")
        with neutral as connection:
            self.provisioner.ensure_extensions(connection)

    def dispose(self) -> None:
        """Close all sessions of this thread or task, and all connections of any thread."""
        self._scopes.get().close()
        self._scopes.clear()
        self.engine.dispose()
        self._pool_events.close()

    def let_go_after_fork(self) -> None:
        """Start without connections and sessions, in a forked child."""
        self._pool_events.abandon()
        self.engine.dispose(close=False)
        self._scopes.clear()

    def __repr__(self) -> str:
        shown = self.url.render_as_string(hide_password=True)
        return f"<{type(self).__name__} {shown} schema={self.current_schema}>"

    # -- inside

    def _admit(self, schema: SchemaName, create: bool) -> None:
        """Make sure that the schema may become current."""
        if create:
            self.ensure_schema_exists(schema)
            return
        self._listen_to_bases()
        found = self.provisioner.found_schemas
        if schema in found or self.provisioner.is_known(schema):
            return
        if not self.is_schema_found_on_database(schema):
            raise SchemaNotFound(schema)
        found.add(schema)

    def _provisioning(self, schema: SchemaName) -> AbstractContextManager[Connection]:
        options = self.provisioner.options(schema)
        return self.engine.connect().execution_options(**options)

    def _store(self) -> SessionStore:
        """Return the unit of work that runs here, or what belongs to this thread or task."""
        scope = self._scopes.get()
        unit = self._current.unit.get()
        # A child task inherits the variable, but never the sessions of its parent.
        return unit if unit is not None and unit.scope is scope else scope

    def _make_session(self, schema: SchemaName) -> Any:
        store = self._store()
        session: Any = self.session_factory(**self.options_of(schema))
        session.joins_transaction = store.joins
        if isinstance(store, Unit):
            session.completion = store.completion
        is_closed = isinstance(store, Unit) or (store.joins and not self._keep_session)
        if self._expires is None and is_closed:
            # Such a session is closed after the commit: there is nothing that could become
            # stale in it, and post-processing can read the objects.
            session.expire_on_commit = False
        return session

    def _flush(self) -> None:
        """Write what the sessions of this thread or task have pending."""
        for session in self._store().all():
            if session.new or session.dirty or session.deleted:
                session.flush()

    def _completion(self) -> Completion:
        store = self._store()
        if store.joins:
            return self._completions.joined_completion(self.transaction_manager)
        if isinstance(store, Unit) and store.completion is not None:
            return store.completion
        return self._completions.completion_of(self.session())

    @contextmanager
    def _unit(self, schema: SchemaName) -> Iterator[None]:
        """Have a current schema, sessions and a transaction of the block's own.

        A generator that holds such a block may be ended by another thread: what is current
        there is not ours to restore.
        """
        joins = can_swap(self.transaction_manager) and current_task() is None
        completion = None if joins else self._completions.deferred_completion()
        unit = Unit(self._scopes.get(), joins, completion)
        before = self._current.unit.get(), self._current.schema
        self._current.unit.set(unit)
        self._current.schema = schema
        try:
            with self._joined_transaction() if joins else _own_transactions(unit):
                yield
        finally:
            unit.close()
            if self._current.unit.get() is unit:
                self._current.unit.set(before[0])
                self._current.schema = before[1]

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
        begin, commit, abort = self._verbs(store)
        begin()
        try:
            yield self.session() if self.current_schema else None
            commit()
        except BaseException:
            abort()
            raise

    def _verbs(self, store: SessionStore) -> tuple[Hook, Hook, Hook]:
        if store.joins:
            manager: Any = self.transaction_manager
            return manager.begin, manager.commit, manager.abort

        def end(verb: str) -> None:
            for session in store.all():
                getattr(session, verb)()

        return (lambda: end("rollback"), lambda: end("commit"), lambda: end("rollback"))


@contextmanager
def _own_transactions(unit: Unit) -> Iterator[None]:
    """Commit or roll back the sessions of a unit, close them, and finish its completion."""
    is_committed = False
    try:
        yield
        for session in unit.all():
            session.commit()
        is_committed = True
    finally:
        unit.close()
        if unit.completion is not None:
            unit.completion.finish(is_committed)
