"""How the prelude travels with psycopg2: in front of the statement, in the same message.

psycopg2 would send ``BEGIN`` as a message of its own. Here the driver is kept out of it (its
own autocommit is always on), and `SchemaConnection` begins and ends transactions: ``BEGIN``,
the prelude and the first statement are one simple query, which PostgreSQL executes in order
and stops at the first error.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg2
from psycopg2 import errors, extensions
from psycopg2.sql import Composable

from onegov_orm import _sql
from onegov_orm._connection import IDLE, IN_FAILED_TRANSACTION, SchemaState, begin_sql
from onegov_orm._cursors_psycopg2 import SchemaCursor, SchemaServerCursor, cursor_class
from onegov_orm._two_phase import TwoPhase
from onegov_orm.errors import ConfigurationError

_LEVELS: Final = {
    extensions.ISOLATION_LEVEL_READ_UNCOMMITTED: "READ UNCOMMITTED",
    extensions.ISOLATION_LEVEL_READ_COMMITTED: "READ COMMITTED",
    extensions.ISOLATION_LEVEL_REPEATABLE_READ: "REPEATABLE READ",
    extensions.ISOLATION_LEVEL_SERIALIZABLE: "SERIALIZABLE",
}
_NUMBERS: Final = {name: number for number, name in _LEVELS.items()}


class SchemaConnection(TwoPhase, SchemaState, extensions.connection):
    """A psycopg2 connection whose transactions start with its schema's prelude."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._level: str | None = None
        self._read_only: bool | None = None
        self._is_deferrable: bool | None = None
        extensions.connection.set_session(self, autocommit=True)
        self._neutral_path = self._reported_search_path()
        self._reports_search_path = self._neutral_path is not None

    def prepare(self, query: str | bytes) -> str:
        """Return what has to be sent in the same message in front of the query."""
        text = query.decode(errors="replace") if isinstance(query, bytes) else query
        preamble = self.preamble(text)
        if preamble and self._wants_autocommit:
            self.send(preamble)
            return ""
        return preamble

    def open_for(self, query: Any) -> None:
        """Send what is due as a message of its own."""
        if isinstance(query, Composable):
            query = query.as_string(self)
        preamble = self.prepare(query)
        if preamble:
            self.send(preamble)

    def send(self, sql: str) -> str:
        """Execute SQL as it is and return the server's status message."""
        self.refuse_if_abandoned()
        cursor = extensions.cursor(self)
        try:
            cursor.execute(sql)
        except BaseException as error:
            self.has_failed(error)
            raise
        return cursor.statusmessage or ""

    def clean(self) -> None:
        """Make the connection fit for the next customer; an open transaction ends."""
        if self.abandoned or self.closed:
            return
        self.rollback()
        del self.notices[:], self.notifies[:]
        sql = self.cleaning()
        if sql:
            self.send(sql)
        self.was_cleaned()

    def cursor(  # type: ignore[override]
        self,
        name: Any = None,
        cursor_factory: Any = None,
        scrollable: bool | None = None,
        withhold: bool = False,
    ) -> Any:
        """Return a cursor of the class asked for, which sends what is due by itself."""
        if name is None and cursor_factory is None and self.cursor_factory is None:
            # The way of almost every statement.
            cursor: Any = SchemaCursor(self)
            cursor.checkins = self.checkins
            return cursor
        if self.abandoned:
            self.preamble("")
        given: Any = cursor_factory if cursor_factory is not None else self.cursor_factory
        if name is not None:
            server_class: Any = cursor_class(SchemaServerCursor, given)
            cursor = server_class(self, str(name), scrollable, withhold)
        else:
            cursor = super().cursor(cursor_factory=cursor_class(SchemaCursor, given))
        cursor.checkins = self.checkins
        return cursor

    def commit(self) -> None:
        """Commit; raises ``InFailedSqlTransaction`` where only a rollback is possible."""
        self.refuse_if_abandoned()
        status = self._transaction_status()
        if status == IN_FAILED_TRANSACTION:
            self.rollback()
            raise errors.InFailedSqlTransaction(
                "the transaction failed earlier and was rolled back: nothing was committed"
            )
        if status != IDLE:
            self.send(_sql.COMMIT)
            self.transactions += 1

    def rollback(self) -> None:
        """Roll the transaction back, if there is one."""
        if self.abandoned or self.closed:
            return
        status = self._transaction_status()
        if status == IN_FAILED_TRANSACTION:
            self.has_failed()
        if status != IDLE:
            self.transactions += 1
            self.send(_sql.ROLLBACK)

    def close(self) -> None:
        """Close the connection; in a forked child the socket is left to the parent."""
        if not self.abandoned:
            super().close()

    def hang_up(self) -> None:
        """Close the connection at once, also if another thread waits for an answer."""
        if not self.closed and self._transaction_status() == extensions.TRANSACTION_STATUS_ACTIVE:
            self.cut_off()
        self.close()

    def reset(self) -> None:
        """Roll back and return to the settings that the connection was opened with."""
        self._soiled = True
        self.clean()

    def lobject(self, *args: Any, **kwargs: Any) -> Any:
        """Return a large object, after what is due."""
        self.open_for("")
        return super().lobject(*args, **kwargs)

    def set_isolation_level(self, level: int | str | None) -> None:
        """Set the level for the transactions to come, 0 means autocommit; an open one ends."""
        self.rollback()
        self.set_session(
            isolation_level=None if level == extensions.ISOLATION_LEVEL_AUTOCOMMIT else level,
            autocommit=level == extensions.ISOLATION_LEVEL_AUTOCOMMIT,
        )
        self._level = _level_name(level)

    def set_session(
        self,
        isolation_level: int | str | bytes | None = None,
        readonly: bool | str | bytes | None = None,
        deferrable: bool | str | bytes | None = None,
        autocommit: bool = False,
    ) -> None:
        """Set the characteristics of the transactions to come; None leaves one as it is."""
        if self._transaction_status() != IDLE:
            raise errors.ActiveSqlTransaction("set_session can't be used inside a transaction")
        if isolation_level is not None:
            self._level = _level_name(isolation_level)
        if readonly is not None:
            self._read_only = _flag(readonly)
        if deferrable is not None:
            self._is_deferrable = _flag(deferrable)
        self._wants_autocommit = autocommit

    @property
    def autocommit(self) -> bool:
        """Whether statements commit by themselves."""
        return self._wants_autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        self._wants_autocommit = bool(value)

    @property
    def isolation_level(self) -> int | None:
        """The level of the transactions to come, None for the server's default."""
        return None if self._level is None else _NUMBERS[self._level]

    @isolation_level.setter
    def isolation_level(self, value: int | str | bytes | None) -> None:
        self._level = _level_name(value)

    @property
    def readonly(self) -> bool | None:
        """Whether the transactions to come are read-only, None for the server's default."""
        return self._read_only

    @readonly.setter
    def readonly(self, value: bool | str | bytes | None) -> None:
        self._read_only = _flag(value)

    @property
    def deferrable(self) -> bool | None:
        """Whether the transactions to come are deferrable, None for the server's default."""
        return self._is_deferrable

    @deferrable.setter
    def deferrable(self, value: bool | str | bytes | None) -> None:
        self._is_deferrable = _flag(value)

    @property
    def status(self) -> int:
        """``STATUS_READY`` outside a transaction, ``STATUS_BEGIN`` inside one."""
        if self._is_prepared:
            return int(extensions.STATUS_PREPARED)
        is_idle = self._transaction_status() == IDLE
        return int(extensions.STATUS_READY if is_idle else extensions.STATUS_BEGIN)

    def _transaction_status(self) -> int:
        return self.get_transaction_status()

    def _reported_search_path(self) -> str | None:
        return self.get_parameter_status("search_path")

    def _begin(self) -> str:
        return begin_sql(self._level, self._read_only, self._is_deferrable)


def _level_name(level: int | str | bytes | None) -> str | None:
    if isinstance(level, bytes):
        level = level.decode()
    if isinstance(level, str):
        name = level.upper()
        if name in _NUMBERS:
            return name
        if name == "DEFAULT":
            return None
        raise ValueError(f"{level!r} is not an isolation level")
    if level is None or level == extensions.ISOLATION_LEVEL_AUTOCOMMIT:
        return None
    return _LEVELS.get(level)


def _flag(value: bool | str | bytes | None) -> bool | None:
    if isinstance(value, (str, bytes)):
        text = value.decode() if isinstance(value, bytes) else value
        if text.upper() != "DEFAULT":
            raise ValueError(f"{value!r} is neither a truth value nor DEFAULT")
        return None
    return None if value is None else bool(value)


def connect(*args: Any, connection_factory: Any = None, **kwargs: Any) -> Any:
    """Connect as ``psycopg2.connect`` does; a class of the caller's is made a base class."""
    factory: Any = SchemaConnection
    if isinstance(connection_factory, type):
        factory = type("SchemaConnection", (SchemaConnection, connection_factory), {})
    elif connection_factory is not None:
        raise ConfigurationError("connection_factory has to be a class of connections")
    return psycopg2.connect(*args, connection_factory=factory, **kwargs)
