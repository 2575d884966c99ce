"""The asynchronous session: a shell around the session of both managers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session

from onegov_orm._tasks import uninterrupted


class AsyncSchemaSession(AsyncSession):
    """An asynchronous session that works in one schema, for as long as it lives."""

    async def commit(self) -> None:
        """Commit, and run the post-processing.

        A commit that is on its way is brought to its end before a cancellation: what is
        committed is announced.
        """
        await uninterrupted(super().commit())


class AsyncSessionFactory(async_sessionmaker[Any]):
    """Makes sessions that work in the current schema, unless they are bound otherwise."""

    def __init__(
        self,
        options: Callable[[], dict[str, Any]],
        session_class: type[Any],
        config: dict[str, Any],
    ) -> None:
        super().__init__(sync_session_class=session_class, **config)
        self._options = options

    def __call__(self, **config: Any) -> Any:
        """Make a session; raises `NoCurrentSchema` without a schema to work in."""
        return super().__call__(**(config if "bind" in config else self._options() | config))


def async_engine(engine: Any) -> AsyncEngine:
    """Return the asynchronous shell of an engine."""
    return AsyncEngine(engine)


def synchronous(session: Any) -> Any:
    """Return what has the events of an asynchronous session, or of what makes such sessions.

    A sessionmaker gets a session class of its own, since SQLAlchemy's is everybody's.
    """
    if isinstance(session, async_scoped_session):
        session = session.session_factory
    if isinstance(session, async_sessionmaker):
        given = session.kw.get("sync_session_class")
        if given is None or given is Session:
            session.configure(sync_session_class=type("Session", (Session,), {}))
        return session.kw["sync_session_class"]
    return getattr(session, "sync_session", session)


def shell_of(value: Any) -> Any:
    """Return the asynchronous shell of a session or connection, and anything else as it is."""
    if isinstance(value, Connection):
        return AsyncConnection(AsyncEngine(value.engine), value)
    if isinstance(value, Session):
        return async_session(value) or value
    return value
