"""How the prelude travels with psycopg 3: in one message with ``BEGIN``, or in a pipeline.

psycopg would send ``BEGIN`` alone in front of the first statement. Here the driver's own
autocommit is always on, and `SchemaConnection` sends ``BEGIN`` and the prelude together, as one
simple query: as many round trips as psycopg makes by itself. Over a network, a pipeline
sends the first statement along, which makes it one round trip less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql as psycopg_sql
from psycopg.abc import AdaptContext
from psycopg.rows import RowFactory, tuple_row

from onegov_orm._connection import IDLE, IN_FAILED_TRANSACTION, SchemaState, begin_sql
from onegov_orm._two_phase import TwoPhase

_SUCCESSES: Final = (psycopg.pq.ExecStatus.COMMAND_OK, psycopg.pq.ExecStatus.TUPLES_OK)


class SchemaCursor(psycopg.Cursor[Any]):
    """A cursor that sends what is due ahead of its statement."""

    connection: SchemaConnection
    #: How often the connection had been given back when the cursor was made.
    checkins: int | None = None

    def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
        """Execute the statement, after what is due."""
        refuse_if_late(self)
        connection = self.connection
        due = connection.due_for(query)
        if not due:
            return super().execute(query, params, **kwargs)
        if not connection.can_pipeline(query):
            connection.send("; ".join(due))
            return super().execute(query, params, **kwargs)
        with connection.sending(due):
            return super().execute(query, params, **kwargs)

    def executemany(self, query: Any, params_seq: Any, **kwargs: Any) -> None:
        """Execute the statement for each set of parameters, after what is due."""
        refuse_if_late(self)
        self.connection.open_for(query)
        super().executemany(query, params_seq, **kwargs)

    def stream(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
        """Iterate over the rows as they come, after what is due."""
        refuse_if_late(self)
        self.connection.open_for(query)
        return super().stream(query, params, **kwargs)

    def copy(self, statement: Any, params: Any = None, **kwargs: Any) -> Any:
        """Run a COPY, after what is due."""
        refuse_if_late(self)
        self.connection.open_for(statement)
        return super().copy(statement, params, **kwargs)


class SchemaServerCursor(psycopg.ServerCursor[Any]):
    """A cursor on the server, declared after what is due."""

    connection: SchemaConnection
    checkins: int | None = None
    _declared_in: int | None = None

    def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
        """Declare the cursor for this query, after what is due."""
        refuse_if_late(self)
        self.connection.open_for(query)
        self._declared_in = self.connection.transactions
        return super().execute(query, params, **kwargs)

    def fetchone(self) -> Any:
        """Fetch the next row, None after the last."""
        self._refuse_if_over()
        return super().fetchone()

    def fetchmany(self, size: int = 0) -> list[Any]:
        """Fetch the next rows."""
        self._refuse_if_over()
        return super().fetchmany(size)

    def fetchall(self) -> list[Any]:
        """Fetch all rows that are left."""
        self._refuse_if_over()
        return super().fetchall()

    def __iter__(self) -> Any:
        self._refuse_if_over()
        return super().__iter__()

    def __next__(self) -> Any:
        self._refuse_if_over()
        return super().__next__()

    def scroll(self, value: int, mode: Any = "relative") -> None:
        """Move the cursor by a number of rows, or to a row."""
        self._refuse_if_over()
        super().scroll(value, mode)

    def close(self) -> None:
        """Close the cursor; on the server only if its transaction is not over."""
        if self._is_alive():
            super().close()
        else:
            psycopg.Cursor.close(self)

    def _refuse_if_over(self) -> None:
        if not self._is_alive():
            raise psycopg.ProgrammingError("the transaction of this server-side cursor is over")

    def _is_alive(self) -> bool:
        if self._declared_in is None or self.checkins != self.connection.checkins:
            return False
        return self.withhold or self._declared_in == self.connection.transactions


def refuse_if_late(cursor: SchemaCursor | SchemaServerCursor) -> None:
    """Raise ``InterfaceError`` if the cursor's connection may be somebody else's by now."""
    if cursor.checkins is not None and cursor.checkins != cursor.connection.checkins:
        raise psycopg.InterfaceError("the cursor's connection was given back to the pool")


def cursor_class(own: Any, given: Any) -> Any:
    """Return a cursor class of ours, with the caller's as a base class."""
    if issubclass(given, own):
        return given
    if issubclass(own, given):
        return own
    return type(f"Schema{given.__name__}", (own, given), {})


class SchemaConnection(TwoPhase, SchemaState, psycopg.Connection[Any]):
    """A psycopg connection whose transactions start with its schema's prelude."""

    #: Whether what is due travels with the first statement, in a pipeline. It saves a
    #: round trip, and costs the processor more than a round trip on the same machine.
    pipelines: bool = False

    def __init__(self, pgconn: Any, row_factory: RowFactory[Any] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self._neutral_path = self._reported_search_path()
        self._reports_search_path = self._neutral_path is not None

    @classmethod
    def connect(
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = False,
        context: AdaptContext | None = None,
        **kwargs: Any,
    ) -> Any:
        """Connect; takes what ``psycopg.connect`` takes."""
        connection = super().connect(conninfo, autocommit=True, context=context, **kwargs)
        connection._wants_autocommit = autocommit
        return connection

    def cursor(self, name: str = "", **kwargs: Any) -> Any:
        """Return a cursor of the class asked for, which sends what is due by itself."""
        if name:
            self.server_cursor_factory = cursor_class(
                SchemaServerCursor, self.server_cursor_factory
            )
        else:
            self.cursor_factory = cursor_class(SchemaCursor, self.cursor_factory)
        cursor: Any = super().cursor(name, **kwargs)
        cursor.checkins = self.checkins
        return cursor

    def can_pipeline(self, query: Any) -> bool:
        """Tell whether what is due can travel in a pipeline with the query.

        Several statements in one text can't.
        """
        if not self.pipelines or self._wants_autocommit or self.pgconn.pipeline_status:
            return False
        return ";" not in _text(query, self)

    def due_for(self, query: Any) -> Sequence[str]:
        """Return the statements that are due before the query."""
        text = _text(query, self)
        return self.due_in_pipeline(text) if self.pgconn.pipeline_status else self.due(text)

    def open_for(self, query: Any) -> None:
        """Send what is due as a message of its own."""
        due = self.due_for(query)
        if due:
            self.send("; ".join(due))

    def forget_plans(self) -> None:
        """Prepare no statements any more.

        The types of a prepared statement's parameters are those of the schema it was made
        for, and an enum of the same name in another schema is another type.
        """
        self.prepare_threshold = None

    @contextmanager
    def sending(self, statements: Sequence[str]) -> Iterator[None]:
        """Send the statements together with what is executed inside the block."""
        try:
            with super().pipeline():
                for statement in statements:
                    psycopg.Cursor(self).execute(statement.encode(), prepare=False)
                yield
        except BaseException:
            self.has_failed()
            raise

    def send(self, sql: str) -> str:
        """Execute SQL as it is and return the server's status message.

        A cursor of psycopg's would prepare for parameters and rows that there are none of; in
        a pipeline it is needed all the same.
        """
        if self.pgconn.pipeline_status:
            psycopg.Cursor(self).execute(sql.encode(), prepare=False)
            return ""
        try:
            result = self.pgconn.exec_(sql.encode())
        except BaseException:
            self.has_failed()
            raise
        if result.status not in _SUCCESSES:
            self.has_failed()
            raise psycopg.errors.error_from_result(result, encoding=self.info.encoding)
        return (result.command_status or b"").decode()

    def clean(self) -> None:
        """Make the connection fit for the next customer; an open transaction ends."""
        if self.abandoned or self.closed:
            return
        if self._is_spent:
            self.close()
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
        self.transactions += 1

    def rollback(self) -> None:
        """Roll the transaction back, if there is one."""
        if self.abandoned or self.closed:
            return
        if self._transaction_status() == IN_FAILED_TRANSACTION:
            self.has_failed()
        self.transactions += 1
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
