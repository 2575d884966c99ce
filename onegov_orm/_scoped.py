"""Which session belongs to whom: to a thread, a task, or a unit of work."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import iscoroutine
from typing import Any, TypeVar

from onegov_orm import _fork
from onegov_orm._manager import BaseSessionManager
from onegov_orm._operations import SchemaOperations
from onegov_orm._prelude import Access
from onegov_orm._units import Key, SessionStore, Unit, sync_session
from onegov_orm.context import Scopes, active_manager
from onegov_orm.errors import ConfigurationError
from onegov_orm.names import SchemaName
from onegov_orm.transactions import Completion, Hook

H = TypeVar("H", bound=Hook)
S = TypeVar("S")


class ScopedSessions(BaseSessionManager):
    """Hands out the sessions, and knows what is to be done after their transactions.

    Nothing here waits for the server, so that both managers have it in common.
    """

    _keep_session: bool = False

    def _begin_scopes(self) -> None:
        self._operations = SchemaOperations(self)
        self._scopes = Scopes(self._new_store)
        _fork.watch(self)

    def bind_session(self, session: S) -> S:
        """Bind a session of the caller's to the current schema, and return it.

        Raises `ConfigurationError` if the session is in use for another schema.
        """
        schema = self._current.require_schema()
        inner: Any = sync_session(session)
        bound = inner.info.get("schema", schema)
        if bound != schema and (inner.in_transaction() or inner.identity_map):
            raise ConfigurationError(
                f'the session is in use for the schema "{bound}": close it before it is bound '
                f'to "{schema}"'
            )
        options = self.options_of(schema)
        outer: Any = session
        outer.bind = options["bind"]
        inner.bind = getattr(options["bind"], "sync_engine", options["bind"])
        inner.info.update(options["info"])
        return session

    def after_commit(self, hook: H) -> H:
        """Run the hook once, after the current transaction is committed; also a decorator.

        It is dropped if the transaction is aborted. An error in it is logged and sent to
        ``on_hook_error``, and stops nobody. Hooks run in their order; a coroutine function
        is awaited by the `AsyncSessionManager`, and refused by the `SessionManager`.
        """
        self._check_hook(hook)
        self._completion().after_commit(self.current_schema, hook)
        return hook

    def after_abort(self, hook: H) -> H:
        """Run the hook once, after the current transaction is aborted; also a decorator."""
        self._check_hook(hook)
        self._completion().after_abort(self.current_schema, hook)
        return hook

    def let_go_after_fork(self) -> None:
        """Start without connections and sessions, in a forked child."""
        self._pool_events.abandon()
        self.sync_engine.dispose(close=False)
        if self.replicas is not None:
            for engine in self.replicas.engines:
                engine.dispose(close=False)
            self.replicas.start_anew()
        self._scopes.clear()

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} can't be pickled: make one in each process, from its dsn"
        )

    def __repr__(self) -> str:
        shown = self.url.render_as_string(hide_password=True)
        return f"<{type(self).__name__} {shown} schema={self.current_schema}>"

    # -- inside

    def _check_hook(self, hook: Any) -> None:
        """Raise for a hook that can't be run here."""
        if not callable(hook):
            if iscoroutine(hook):
                hook.close()
            raise ConfigurationError(
                f"{hook!r} can't be called: give the function itself, not what it returned"
            )

    def _new_store(self) -> SessionStore:
        return SessionStore(self.transaction_manager is not None)

    def _store(self) -> SessionStore:
        """Return the unit of work that runs here, or what belongs to this thread or task."""
        scope = self._scopes.get()
        unit = self._current.unit.get()
        # A child task inherits the variable, but never the sessions of its parent.
        return unit if unit is not None and unit.scope is scope else scope

    def _session(self, access: Access | None = None) -> Any:
        schema = self._current.require_schema()
        store = self._store()
        if access is None and isinstance(store, Unit):
            access = store.access
        return store.get((schema, access), self._make_session)

    def _make_session(self, key: Key) -> Any:
        schema, access = key
        store = self._store()
        options = self.options_of(schema, access)
        if access is not None:
            # There is nothing to prepare, and a standby can't.
            options["twophase"] = False
        made: Any = self.session_factory(**options)
        session: Any = sync_session(made)
        if access is not None:
            session.access = access
            # A standby can prepare no transaction, and there is nothing to be prepared.
            session.twophase = False
            # The store has the session; the other way round would be a circle.
            session.store = weakref.ref(store)
        session.joins_transaction = store.joins
        if isinstance(store, Unit) and access is None:
            session.completion = store.completion
        is_closed = isinstance(store, Unit) or (store.joins and not self._keep_session)
        if self._expires is None and is_closed:
            # Such a session is closed after the commit: there is nothing that could become
            # stale in it, and post-processing can read the objects.
            session.expire_on_commit = False
        return made

    def _completion(self) -> Completion:
        store = self._store()
        if store.joins:
            return self._completions.joined_completion(self.transaction_manager)
        if isinstance(store, Unit) and store.completion is not None:
            return store.completion
        return self._completions.completion_of(sync_session(self._session()))

    def _flush(self) -> None:
        """Write what the sessions of this thread or task have pending."""
        for session in self._store().writing():
            if session.new or session.dirty or session.deleted:
                session.flush()

    @contextmanager
    def _entered(self, schema: SchemaName, joins: bool, access: Access | None) -> Iterator[Unit]:
        """Have a current schema and sessions of the block's own, and be the active manager.

        A generator that holds such a block may be ended by another thread: what is current
        there is not ours to restore.
        """
        completion = None if joins else self._completions.deferred_completion()
        unit = Unit(self._store(), self._scopes.get(), joins, completion, access)
        before = self._current.unit.get(), self._current.schema, active_manager.get()
        self._current.unit.set(unit)
        self._current.schema = schema
        self.set_active()
        try:
            yield unit
        finally:
            if self._current.unit.get() is unit:
                self._current.unit.set(before[0])
                self._current.schema = before[1]
                active_manager.set(before[2])


def access_of(readonly: bool, deferrable: bool) -> Access | None:
    """Return how a session reads, None if it can write."""
    if deferrable:
        return Access.DEFERRABLE
    return Access.READ_ONLY if readonly else None
