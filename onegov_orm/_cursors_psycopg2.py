"""psycopg2's cursors, which send what is due together with their statement."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import extensions
from psycopg2.sql import Composable

from onegov_orm import _sql
from onegov_orm._connection import IDLE, IN_FAILED_TRANSACTION

if TYPE_CHECKING:
    from onegov_orm._driver_psycopg2 import SchemaConnection


class SchemaCursor(extensions.cursor):
    """A cursor that sends what is due together with its statement."""

    connection: SchemaConnection
    #: How often the connection had been given back when the cursor was made.
    checkins: int | None = None

    def execute(self, query: Any, vars: Any = None) -> None:
        """Execute the statement, with what is due in front of it."""
        connection = self.connection
        if self.checkins != connection.checkins:
            self._refuse_if_late()
        if isinstance(query, Composable):
            query = query.as_string(self)
        preamble = connection.prepare(query)
        if not preamble:
            super().execute(query, vars)
            return
        try:
            is_bytes = isinstance(query, bytes)
            super().execute(preamble.encode() + query if is_bytes else preamble + query, vars)
        except BaseException as error:
            connection.has_failed(error)
            raise

    def executemany(self, query: Any, vars_list: Any) -> None:
        """Execute the statement for each set of parameters, after what is due."""
        self._refuse_if_late()
        self.connection.open_for(query)
        super().executemany(query, vars_list)

    def _refuse_if_late(self) -> None:
        if self.checkins is not None and self.checkins != self.connection.checkins:
            raise psycopg2.InterfaceError("the cursor's connection was given back to the pool")

    def callproc(self, procname: Any, parameters: Any = None, /) -> Any:
        """Call a function, after what is due."""
        self._refuse_if_late()
        self.connection.open_for(procname)
        return super().callproc(procname, parameters)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        """Run a COPY, after what is due."""
        self._refuse_if_late()
        self.connection.open_for(sql)
        super().copy_expert(sql, file, size)

    def copy_from(self, *args: Any, **kwargs: Any) -> None:
        """Copy into a table, after what is due."""
        self._refuse_if_late()
        self.connection.open_for("")
        super().copy_from(*args, **kwargs)

    def copy_to(self, *args: Any, **kwargs: Any) -> None:
        """Copy out of a table, after what is due."""
        self._refuse_if_late()
        self.connection.open_for("")
        super().copy_to(*args, **kwargs)


class SchemaServerCursor(SchemaCursor):
    """A cursor on the server, declared in the same message as what is due.

    psycopg2's own refuses to work while the driver's autocommit is on.
    """

    def __init__(
        self, connection: SchemaConnection, name: str, scrollable: bool | None, withhold: bool
    ) -> None:
        super().__init__(connection)
        self._server_name = name
        self._declare = _sql.declare_cursor(name, scrollable, withhold)
        self._is_held = withhold
        self._declared_in: int | None = None
        self.itersize = 2000

    def execute(self, query: Any, vars: Any = None) -> None:
        """Declare the cursor for this query."""
        if isinstance(query, Composable):
            query = query.as_string(self)
        if isinstance(query, bytes):
            query = query.decode()
        super().execute(self._declare + query, vars)
        self._declared_in = self.connection.transactions

    def fetchone(self) -> Any:
        """Fetch the next row, None after the last."""
        self._fetch("1")
        return super().fetchone()

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """Fetch the next rows, as many as ``size`` or ``arraysize``."""
        self._fetch(str(self.arraysize if size is None else size))
        return super().fetchall()

    def fetchall(self) -> list[Any]:
        """Fetch all rows that are left."""
        self._fetch("ALL")
        return super().fetchall()

    def scroll(self, value: int, mode: Any = "relative") -> None:
        """Move the cursor by a number of rows, or to a row."""
        super().execute(_sql.move_cursor(self._server_name, int(value), mode == "absolute"))

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        while rows := self.fetchmany(self.itersize):
            yield from rows

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def close(self) -> None:
        """Close the cursor on the server, unless its transaction ended it already."""
        connection = self.connection
        is_open = self._is_alive() and not connection.closed and not connection.abandoned
        self._declared_in = None
        if is_open and connection.get_transaction_status() not in (IDLE, IN_FAILED_TRANSACTION):
            super().execute(_sql.close_cursor(self._server_name))
        super().close()

    def _fetch(self, count: str) -> None:
        if not self._is_alive():
            raise psycopg2.ProgrammingError("the transaction of this server-side cursor is over")
        super().execute(_sql.fetch_forward(self._server_name, count))

    def _is_alive(self) -> bool:
        if self._declared_in is None or self.checkins != self.connection.checkins:
            return False
        return self._is_held or self._declared_in == self.connection.transactions


@lru_cache(maxsize=64)
def cursor_class(own: type[SchemaCursor], given: Any) -> type[SchemaCursor]:
    """Return a cursor class of ours, with the caller's as a base class."""
    if given is None or (isinstance(given, type) and issubclass(own, given)):
        return own
    if isinstance(given, type) and issubclass(given, extensions.cursor):
        return type(f"Schema{given.__name__}", (own, given), {})
    raise TypeError(f"cursor_factory has to be a class of cursors, not {given!r}")
