"""How the prelude travels with psycopg 3: in one message with ``BEGIN``.

psycopg would send ``BEGIN`` alone in front of the first statement. Here the driver's own
autocommit is always on, and `SchemaConnection` sends ``BEGIN`` and the prelude together, as one
simple query: as many round trips as psycopg makes by itself.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql as psycopg_sql
from psycopg.abc import AdaptContext
from psycopg.rows import RowFactory, tuple_row

from onegov_orm._connection import IDLE, IN_FAILED_TRANSACTION, SchemaState, begin_sql
from onegov_orm._two_phase import TwoPhase


class SchemaCursor(psycopg.Cursor[Any]):
    """A cursor that sends what is due ahead of its statement."""

    def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
        """Execute the statement, after what is due."""
        self.connection.open_for(query)  # type: ignore[attr-defined]
        return super().execute(query, params, **kwargs)

    def executemany(self, query: Any, params_seq: Any, **kwargs: Any) -> None:
        """Execute the statement for each set of parameters, after what is due."""
        self.connection.open_for(query)  # type: ignore[attr-defined]
        super().executemany(query, params_seq, **kwargs)

    def stream(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
        """Iterate over the rows as they come, after what is due."""
        self.connection.open_for(query)  # type: ignore[attr-defined]
        return super().stream(query, params, **kwargs)

    def copy(self, statement: Any, params: Any = None, **kwargs: Any) -> Any:
        """Run a COPY, after what is due."""
        self.connection.open_for(statement)  # type: ignore[attr-defined]
        return super().copy(statement, params, **kwargs)


class SchemaServerCursor(psycopg.ServerCursor[Any]):
    """A cursor on the server, declared after what is due."""

    def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
        """Declare the cursor for this query, after what is due."""
        self.connection.open_for(query)  # type: ignore[attr-defined]
        return super().execute(query, params, **kwargs)


class SchemaConnection(TwoPhase, SchemaState, psycopg.Connection[Any]):
    """A psycopg connection whose transactions start with its schema's prelude."""

    def __init__(self, pgconn: Any, row_factory: RowFactory[Any] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.cursor_factory = SchemaCursor
        self.server_cursor_factory = SchemaServerCursor
        self._reports_search_path = self._reported_search_path() is not None

    @classmethod
    def connect(
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = False,
        context: AdaptContext | None = None,
        cursor_factory: type[psycopg.Cursor[Any]] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Connect; takes what ``psycopg.connect`` takes."""
        connection = super().connect(conninfo, autocommit=True, context=context, **kwargs)
        connection._wants_autocommit = autocommit
        if cursor_factory is not None:
            name = f"Schema{cursor_factory.__name__}"
            connection.cursor_factory = type(name, (SchemaCursor, cursor_factory), {})
        return connection

    def open_for(self, query: Any) -> None:
        """Send what is due as a message of its own."""
        if self.pgconn.pipeline_status:
            return
        preamble = self.preamble(_text(query, self))
        if preamble:
            self.send(preamble)

    def send(self, sql: str) -> str:
        """Execute SQL as it is and return the server's status message."""
        cursor = psycopg.Cursor(self)
        try:
            cursor.execute(sql.encode())
        except BaseException:
            self.has_failed()
            raise
        return cursor.statusmessage or ""

    def clean(self) -> None:
        """Make the connection fit for the next customer; an open transaction ends."""
        if self.abandoned or self.closed:
            return
        self.rollback()
        sql = self.cleaning()
        if sql:
            self.send(sql)
        self.was_cleaned()

    def commit(self) -> None:
        """Commit; raises ``InFailedSqlTransaction`` where only a rollback is possible."""
        if self._transaction_status() == IN_FAILED_TRANSACTION:
            self.rollback()
            raise psycopg.errors.InFailedSqlTransaction(
                "the transaction failed earlier and was rolled back: nothing was committed"
            )
        super().commit()

    def rollback(self) -> None:
        """Roll the transaction back, if there is one."""
        if self.abandoned or self.closed:
            return
        if self._transaction_status() == IN_FAILED_TRANSACTION:
            self.has_failed()
        super().rollback()

    def close(self) -> None:
        """Close the connection; in a forked child the socket is left to the parent."""
        if not self.abandoned:
            super().close()

    def pipeline(self) -> Any:
        """Return a pipeline of psycopg's, after what is due."""
        self.open_for("")
        return super().pipeline()

    def transaction(self, *args: Any, **kwargs: Any) -> Any:
        """Return a block of psycopg's: a savepoint in the transaction that is open."""
        self.open_for("")
        return super().transaction(*args, **kwargs)

    @property
    def autocommit(self) -> bool:
        """Whether statements commit by themselves."""
        return self._wants_autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        self.set_autocommit(value)

    def set_autocommit(self, value: bool) -> None:
        """Make statements commit by themselves, or not."""
        if self._transaction_status() != IDLE and not self.pgconn.pipeline_status:
            raise psycopg.ProgrammingError(
                "autocommit can't be changed inside a transaction: commit or roll back first"
            )
        self._wants_autocommit = bool(value)

    def _transaction_status(self) -> int:
        return self.pgconn.transaction_status

    def _reported_search_path(self) -> str | None:
        reported = self.pgconn.parameter_status(b"search_path")
        return None if reported is None else reported.decode()

    def _begin(self) -> str:
        level = self.isolation_level
        name = None if level is None else level.name.replace("_", " ")
        return begin_sql(name, self.read_only, self.deferrable)


def _text(query: Any, connection: psycopg.Connection[Any]) -> str:
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    if isinstance(query, psycopg_sql.Composable):
        return query.as_string(connection)
    return str(query)
