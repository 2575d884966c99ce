"""How the prelude travels with psycopg 3 under asyncio: the same messages, awaited.

See `_driver_psycopg`; what is decided is the same, and so is what reaches the server.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg.generators import execute as executed
from psycopg.rows import AsyncRowFactory, tuple_row

from onegov_orm._connection import ACTIVE, IN_FAILED_TRANSACTION
from onegov_orm._psycopg import DeclaredCursor, PsycopgState, cursor_class, refuse_if_late
from onegov_orm._two_phase import AsyncTwoPhase


class SchemaAsyncCursor(psycopg.AsyncCursor[Any]):
    """A cursor that sends what is due ahead of its statement."""

    connection: SchemaAsyncConnection
    #: How often the connection had been given back when the cursor was made.
    checkins: int | None = None

    async def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
        """Execute the statement, after what is due."""
        refuse_if_late(self)
        connection = self.connection
        due = connection.due_for(query)
        try:
            if due and connection.can_pipeline(query):
                async with connection.sending(due):
                    return await super().execute(query, params, **kwargs)
            if due:
                await connection.send("; ".join(due))
            return await super().execute(query, params, **kwargs)
        except psycopg.Error as error:
            connection.note_error(error)
            raise

    async def executemany(self, query: Any, params_seq: Any, **kwargs: Any) -> None:
        """Execute the statement for each set of parameters, after what is due."""
        refuse_if_late(self)
        await self.connection.open_for(query)
        await super().executemany(query, params_seq, **kwargs)

    async def stream(self, query: Any, params: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
        """Iterate over the rows as they come, after what is due."""
        refuse_if_late(self)
        await self.connection.open_for(query)
        async for row in super().stream(query, params, **kwargs):
            yield row

    @asynccontextmanager
    async def copy(self, statement: Any, params: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
        """Run a COPY, after what is due."""
        refuse_if_late(self)
        await self.connection.open_for(statement)
        async with super().copy(statement, params, **kwargs) as copy:
            yield copy


class SchemaAsyncServerCursor(DeclaredCursor, psycopg.AsyncServerCursor[Any]):
    """A cursor on the server, declared after what is due."""

    connection: SchemaAsyncConnection

    async def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
        """Declare the cursor for this query, after what is due."""
        refuse_if_late(self)
        self.refuse_if_held()
        await self.connection.open_for(query)
        self.declared_in = self.connection.transactions
        return await super().execute(query, params, **kwargs)

    async def fetchone(self) -> Any:
        """Fetch the next row, None after the last."""
        self.refuse_if_over()
        return await super().fetchone()

    async def fetchmany(self, size: int = 0) -> list[Any]:
        """Fetch the next rows."""
        self.refuse_if_over()
        return await super().fetchmany(size)

    async def fetchall(self) -> list[Any]:
        """Fetch all rows that are left."""
        self.refuse_if_over()
        return await super().fetchall()

    def __aiter__(self) -> Any:
        self.refuse_if_over()
        return super().__aiter__()

    async def __anext__(self) -> Any:
        self.refuse_if_over()
        return await super().__anext__()

    async def scroll(self, value: int, mode: Any = "relative") -> None:
        """Move the cursor by a number of rows, or to a row."""
        self.refuse_if_over()
        await super().scroll(value, mode)

    async def close(self) -> None:
        """Close the cursor; on the server only if its transaction is not over."""
        if self.is_alive():
            await super().close()
        else:
            await psycopg.AsyncCursor.close(self)


class SchemaAsyncConnection(AsyncTwoPhase, PsycopgState, psycopg.AsyncConnection[Any]):
    """An asynchronous psycopg connection whose transactions start with the prelude."""

    def __init__(self, pgconn: Any, row_factory: AsyncRowFactory[Any] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self._level: psycopg.IsolationLevel | None = None
        self._is_read_only: bool | None = None
        self._is_deferrable: bool | None = None
        self.notice_path()

    @classmethod
    async def connect(cls, conninfo: str = "", *, autocommit: bool = False, **kwargs: Any) -> Any:
        """Connect; takes what ``psycopg.AsyncConnection.connect`` takes."""
        connection = await super().connect(conninfo, autocommit=True, **kwargs)
        connection._wants_autocommit = autocommit
        return connection

    def cursor(self, name: str = "", **kwargs: Any) -> Any:
        """Return a cursor of the class asked for, which sends what is due by itself."""
        if name:
            self.server_cursor_factory = cursor_class(
                SchemaAsyncServerCursor, self.server_cursor_factory
            )
        else:
            self.cursor_factory = cursor_class(SchemaAsyncCursor, self.cursor_factory)
        cursor: Any = super().cursor(name, **kwargs)
        cursor.checkins = self.checkins
        return cursor

    async def open_for(self, query: Any) -> None:
        """Send what is due as a message of its own."""
        due = self.due_for(query)
        if due:
            await self.send("; ".join(due))

    @asynccontextmanager
    async def sending(self, statements: Sequence[str]) -> AsyncIterator[None]:
        """Send the statements together with what is executed inside the block."""
        try:
            async with super().pipeline():
                for statement in statements:
                    await psycopg.AsyncCursor(self).execute(statement.encode(), prepare=False)
                yield
        except BaseException as error:
            self.has_failed(error)
            raise

    async def send(self, sql: str) -> str:
        """Execute SQL as it is and return the server's status message."""
        self.refuse_if_abandoned()
        if self.pgconn.pipeline_status:
            await psycopg.AsyncCursor(self).execute(sql.encode(), prepare=False)
            return ""
        try:
            async with self.lock:
                self.pgconn.send_query(sql.encode())
                results = await self.wait(executed(self.pgconn))
        except BaseException as error:
            self.has_failed(error)
            raise
        return [self.check(result) for result in results][-1]

    async def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for the server; closes the connection if it is interrupted in the middle."""
        try:
            return await super().wait(gen, *args, **kwargs)
        except (asyncio.CancelledError, KeyboardInterrupt):
            self.close_if_stuck(gen)
            raise

    async def clean(self) -> None:
        """Make the connection fit for the next customer; an open transaction ends."""
        if self.abandoned or self.closed:
            return
        await self.rollback()
        sql = self.cleaning()
        if sql:
            await self.send(sql)
        self.was_cleaned()

    async def commit(self) -> None:
        """Commit; raises ``InFailedSqlTransaction`` where only a rollback is possible."""
        self.refuse_if_abandoned()
        if self._transaction_status() == IN_FAILED_TRANSACTION:
            await self.rollback()
            self.refuse_failed_commit()
        await super().commit()
        self.transactions += 1

    async def rollback(self) -> None:
        """Roll the transaction back, if there is one."""
        if self.expect_rollback():
            await super().rollback()

    async def close(self) -> None:
        """Close the connection; in a forked child the socket is left to the parent."""
        if not self.abandoned:
            await super().close()

    def hang_up(self) -> None:
        """Close the connection at once, without waiting for anything.

        A task that waits for an answer hears that there will be none.
        """
        if self.abandoned or self.closed:
            return
        with socket.socket(fileno=os.dup(self.fileno())) as duplicate, suppress(OSError):
            duplicate.shutdown(socket.SHUT_RDWR)
        if self._transaction_status() != ACTIVE:
            self.pgconn.finish()

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[Any]:
        """Return a pipeline of psycopg's, after what is due."""
        await self.open_for("")
        async with super().pipeline() as pipeline:
            yield pipeline

    @asynccontextmanager
    async def transaction(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Return a block of psycopg's: a savepoint in the transaction that is open."""
        await self.open_for("")
        async with super().transaction(*args, **kwargs) as transaction:
            yield transaction

    @property
    def autocommit(self) -> bool:
        """Whether statements commit by themselves."""
        return self._wants_autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        raise AttributeError("await set_autocommit(value) instead")

    async def set_autocommit(self, value: bool) -> None:
        """Make statements commit by themselves, or not."""
        self.want_autocommit(value)

    # psycopg's own methods wait, for nothing. SQLAlchemy calls them when it has just opened the
    # connection, and a task that is cancelled there would leave it open.

    @property
    def isolation_level(self) -> psycopg.IsolationLevel | None:
        """The level of the transactions to come, None for the server's default."""
        return self._level

    @isolation_level.setter
    def isolation_level(self, value: psycopg.IsolationLevel | None) -> None:
        raise AttributeError("await set_isolation_level(value) instead")

    async def set_isolation_level(self, value: psycopg.IsolationLevel | None) -> None:
        """Set the level of the transactions to come."""
        self._refuse_inside("isolation_level")
        self._level = None if value is None else psycopg.IsolationLevel(value)

    @property
    def read_only(self) -> bool | None:
        """Whether the transactions to come are read-only, None for the server's default."""
        return self._is_read_only

    @read_only.setter
    def read_only(self, value: bool | None) -> None:
        raise AttributeError("await set_read_only(value) instead")

    async def set_read_only(self, value: bool | None) -> None:
        """Make the transactions to come read-only, or not."""
        self._refuse_inside("read_only")
        self._is_read_only = None if value is None else bool(value)

    @property
    def deferrable(self) -> bool | None:
        """Whether the transactions to come are deferrable, None for the server's default."""
        return self._is_deferrable

    @deferrable.setter
    def deferrable(self, value: bool | None) -> None:
        raise AttributeError("await set_deferrable(value) instead")

    async def set_deferrable(self, value: bool | None) -> None:
        """Make the transactions to come deferrable, or not."""
        self._refuse_inside("deferrable")
        self._is_deferrable = None if value is None else bool(value)

    def _refuse_inside(self, name: str) -> None:
        if not self.is_idle:
            raise psycopg.ProgrammingError(f"{name} can't be changed inside a transaction")
