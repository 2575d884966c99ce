"""Connection pools that know who holds their connections."""

from __future__ import annotations

import select
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.exc import DisconnectionError, InvalidRequestError, OperationalError
from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeoutError
from sqlalchemy.pool.base import _ConnectionRecord

from onegov_orm._connection import SchemaState
from onegov_orm._places import place
from onegov_orm._queues import FAIR
from onegov_orm._tasks import current_task
from onegov_orm.context import owner_name
from onegov_orm.errors import PoolExhausted
from onegov_orm.typing import Holder

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection
    from sqlalchemy.pool.base import PoolResetState


class _Out:
    """A connection that is out of the pool: who has it is put into words when asked for."""

    __slots__ = ("opened_at", "schema", "since", "task", "task_name", "thread")

    def __init__(self, opened_at: str | None) -> None:
        self.schema: str | None = None
        self.opened_at = opened_at
        self.thread = threading.current_thread()
        # A reference would keep the task, and with it the sessions that go away with it.
        task = current_task()
        self.task = None if task is None else weakref.ref(task)
        self.task_name = None if task is None else task.get_name()
        self.since = time.monotonic()

    def holder(self) -> Holder:
        """Return what people read."""
        owner = owner_name(self.thread, self.task_name)
        return Holder(self.schema, owner, self.since, self._is_gone(), self.opened_at)

    def _is_gone(self) -> bool:
        if self.task is None:
            return not self.thread.is_alive()
        task = self.task()
        return task is None or task.done()


class Holders:
    """Who holds which connection of one engine.

    Each entry is written by the one who has the connection, in single steps that need no lock.
    With ``traces``, the place in the program is noted too.
    """

    def __init__(self, traces: bool = False) -> None:
        self._out: dict[int, _Out] = {}
        self._traces = traces

    def add(self, record: object) -> None:
        """Note that the current thread or task took the connection."""
        self._out[id(record)] = _Out(place() if self._traces else None)

    def name_schema(self, record: object, schema: str | None) -> None:
        """Note which schema the connection is used for."""
        out = self._out.get(id(record))
        if out is not None:
            out.schema = schema

    def remove(self, record: object) -> None:
        """Note that the connection was given back."""
        self._out.pop(id(record), None)

    def list(self) -> list[Holder]:
        """Return the holders, the longest first."""
        found = [out.holder() for out in list(self._out.values())]
        return sorted(found, key=lambda holder: holder.since)

    def clear(self) -> None:
        """Forget all holders, in a forked child."""
        self._out = {}


class HolderNamingPool:
    """Mixed into a pool class: the error of an exhausted pool names the holders."""

    holders: Holders

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out; raises `PoolExhausted` when the wait is over."""
        try:
            return super().connect()  # type: ignore[misc, no-any-return]
        except PoolExhausted:
            raise
        except SQLAlchemyTimeoutError as exc:
            raise PoolExhausted(exc.args[0], self.holders.list()) from exc
        except InvalidRequestError as exc:
            # SQLAlchemy gave up: the server closed three in a row as soon as they were open.
            raise OperationalError(None, None, exc, connection_invalidated=True) from exc


class FairPool(HolderNamingPool):
    """Mixed into a pool with a queue: who waits for a connection waits in turn."""

    def _create_connection(self) -> ConnectionPoolEntry:
        """Return a place for a connection, which is opened by who takes it.

        If that fails, the place is handed on: somebody waits for it. SQLAlchemy's pools open
        the connection first, and who waits then is not told.
        """
        return _ConnectionRecord(self, connect=False)  # type: ignore[arg-type]


def naming_pool_class(pool_class: type[Pool], holders: Holders) -> type[Pool]:
    """Return a subclass of the pool class that names its holders when it is exhausted."""
    attributes: dict[str, Any] = {"holders": holders}
    queue_class = getattr(pool_class, "_queue_class", None)
    if queue_class not in FAIR:
        return type(pool_class.__name__, (HolderNamingPool, pool_class), attributes)
    attributes["_queue_class"] = FAIR[queue_class]
    return type(pool_class.__name__, (FairPool, pool_class), attributes)


class PoolEvents:
    """Hands out live connections only, and takes them back without any schema."""

    def __init__(self, holders: Holders) -> None:
        self.holders = holders
        #: All open connections, for the ends that a pool knows nothing of: fork, dispose.
        self.connections: weakref.WeakSet[Any] = weakref.WeakSet()

    def attach(self, engine: Engine) -> None:
        """Listen to the engine and its pools, those of later `dispose` calls included."""
        for name in ("connect", "checkout", "reset", "checkin", "detach"):
            event.listen(engine, name, getattr(self, name))

    def connect(self, dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
        """Remember the connection."""
        self.connections.add(driver_connection(dbapi_connection))

    def checkout(
        self, dbapi_connection: Any, record: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        """Refuse a connection that the server closed while it idled; costs no message."""
        connection = driver_connection(dbapi_connection)
        # One that was opened before the registration is refused when its schema is bound.
        if isinstance(connection, SchemaState):
            reason = _why_unfit(connection)
            if reason is not None:
                # SQLAlchemy would await a friendly goodbye, and lose the place in the pool if
                # that is cancelled; there is nothing to be said to such a connection.
                connection.hang_up()
                entry: Any = record
                entry.dbapi_connection = None
                raise DisconnectionError(reason)
        self.holders.add(record)

    def reset(
        self, dbapi_connection: Any, record: ConnectionPoolEntry, state: PoolResetState
    ) -> None:
        """Clean what the customer left on the connection."""
        connection = driver_connection(dbapi_connection)
        if state.terminate_only or not isinstance(connection, SchemaState):
            return
        if isinstance(dbapi_connection, AdaptedConnection):
            dbapi_connection.run_async(lambda asynchronous: asynchronous.clean())
        else:
            connection.clean()

    def checkin(self, dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
        """Forget the holder, and let no cursor of its be used any more."""
        self.holders.remove(record)
        connection = driver_connection(dbapi_connection)
        if not isinstance(connection, SchemaState):
            return
        connection.checkins += 1
        if connection.is_spent:
            # No sooner: what SQLAlchemy sets back when it is given back needs it open.
            connection.hang_up()
            entry: Any = record
            entry.dbapi_connection = None

    def detach(self, dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
        """Forget the holder of a connection that leaves the pool for good."""
        self.holders.remove(record)

    def abandon(self) -> None:
        """Let go of all connections without a word to the server, in a forked child."""
        self.holders.clear()
        for connection in list(self.connections):
            connection.abandoned = True
        _inherited.extend(self.connections)
        self.connections = weakref.WeakSet()

    def close(self) -> None:
        """Close all connections at once, those in use included."""
        for connection in list(self.connections):
            connection.hang_up()


#: Connections of a parent process, kept so that no finalizer talks on their sockets.
_inherited: list[Any] = []


def driver_connection(dbapi_connection: Any) -> Any:
    """Return the driver's connection; SQLAlchemy wraps those of asynchronous drivers."""
    return getattr(dbapi_connection, "driver_connection", dbapi_connection)


def _why_unfit(connection: Any) -> str | None:
    """Return why nobody should have the connection, None if it is as it was left."""
    if connection.closed or _is_readable(connection):
        return "the server closed the connection while it was idle"
    if not connection.is_idle:
        return "somebody used the connection while it was in the pool"
    return None


def _is_readable(connection: Any) -> bool:
    # An idle connection hears from the server only when it is being closed, or when
    # something was reported out of turn; in both cases another one is the better choice.
    # ``select`` would not do: it fails for file numbers above 1024.
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
