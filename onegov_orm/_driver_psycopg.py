"""How the prelude travels with psycopg 3: in one message with ``BEGIN``, or in a pipeline.

psycopg would send ``BEGIN`` alone in front of the first statement. Here the driver's own
autocommit is always on, and `SchemaConnection` sends ``BEGIN`` and the prelude together, as one
simple query: as many round trips as psycopg makes by itself. Over a network, a pipeline
sends the first statement along, which makes it one round trip less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.abc import AdaptContext
from psycopg.rows import RowFactory, tuple_row

from onegov_orm._connection import IN_FAILED_TRANSACTION
from onegov_orm._psycopg import DeclaredCursor, PsycopgState, cursor_class, refuse_if_late
from onegov_orm._two_phase import TwoPhase


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
        try:
            if due and connection.can_pipeline(query):
                with connection.sending(due):
                    return super().execute(query, params, **kwargs)
            if due:
                connection.send("; ".join(due))
            return super().execute(query, params, **kwargs)
        except psycopg.Error as error:
            connection.note_error(error)
            raise

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


class SchemaServerCursor(DeclaredCursor, psycopg.ServerCursor[Any]):
    """A cursor on the server, declared after what is due."""

    connection: SchemaConnection

    def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
        """Declare the cursor for this query, after what is due."""
        refuse_if_late(self)
        self.refuse_if_held()
        self.connection.open_for(query)
        self.declared_in = self.connection.transactions
        return super().execute(query, params, **kwargs)

    def fetchone(self) -> Any:
        """Fetch the next row, None after the last."""
        self.refuse_if_over()
        return super().fetchone()

    def fetchmany(self, size: int = 0) -> list[Any]:
        """Fetch the next rows."""
        self.refuse_if_over()
        return super().fetchmany(size)

    def fetchall(self) -> list[Any]:
        """Fetch all rows that are left."""
        self.refuse_if_over()
        return super().fetchall()

    def __iter__(self) -> Any:
        self.refuse_if_over()
        return super().__iter__()

    def __next__(self) -> Any:
        self.refuse_if_over()
        return super().__next__()

    def scroll(self, value: int, mode: Any = "relative") -> None:
        """Move the cursor by a number of rows, or to a row."""
        self.refuse_if_over()
        super().scroll(value, mode)

    def close(self) -> None:
        """Close the cursor; on the server only if its transaction is not over."""
        if self.is_alive():
            super().close()
        else:
            psycopg.Cursor.close(self)


class SchemaConnection(TwoPhase, PsycopgState, psycopg.Connection[Any]):
    """A psycopg connection whose transactions start with its schema's prelude."""

    def __init__(self, pgconn: Any, row_factory: RowFactory[Any] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.notice_path()

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

    def open_for(self, query: Any) -> None:
        """Send what is due as a message of its own."""
        due = self.due_for(query)
        if due:
            self.send("; ".join(due))

    @contextmanager
    def sending(self, statements: Sequence[str]) -> Iterator[None]:
        """Send the statements together with what is executed inside the block."""
        try:
            with super().pipeline():
                for statement in statements:
                    psycopg.Cursor(self).execute(statement.encode(), prepare=False)
                yield
        except BaseException as error:
            self.has_failed(error)
            raise

    def send(self, sql: str) -> str:
        """Execute SQL as it is and return the server's status message.

        A cursor of psycopg's would prepare for parameters and rows that there are none of; in
        a pipeline it is needed all the same.
        """
        self.refuse_if_abandoned()
        if self.pgconn.pipeline_status:
            psycopg.Cursor(self).execute(sql.encode(), prepare=False)
            return ""
        try:
            with self.lock:
                result = self.pgconn.exec_(sql.encode())
        except BaseException as error:
            self.has_failed(error)
            raise
        return self.check(result)

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for the server; closes the connection if it is interrupted in the middle."""
        try:
            return super().wait(gen, *args, **kwargs)
        except KeyboardInterrupt:
            self.close_if_stuck(gen)
            raise

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
        self.refuse_if_abandoned()
        if self._transaction_status() == IN_FAILED_TRANSACTION:
            self.rollback()
            self.refuse_failed_commit()
        super().commit()
        self.transactions += 1

    def rollback(self) -> None:
        """Roll the transaction back, if there is one."""
        if self.expect_rollback():
            super().rollback()

    def close(self) -> None:
        """Close the connection; in a forked child the socket is left to the parent."""
        if not self.abandoned:
            super().close()

    def hang_up(self) -> None:
        """Close the connection at once; a thread that uses it just now does so itself."""
        if self.closed or self.abandoned:
            return
        if self.lock.acquire(blocking=False):
            try:
                self.close()
            finally:
                self.lock.release()
        else:
            self.cut_off()

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
        self.want_autocommit(value)
