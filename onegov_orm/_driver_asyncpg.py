"""How the prelude travels with asyncpg: in one simple query with ``BEGIN``.

`SchemaConnection` is asyncpg's connection; SQLAlchemy's adapter and asyncpg's own transaction
blocks both send their ``BEGIN`` by its `execute`, where the prelude joins. What is to be
executed with parameters is prepared by `SchemaConnection.prepare`, which keeps the
statements; the caches of SQLAlchemy's adapter and of asyncpg know no schemas, and are off.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import asyncpg
from asyncpg.transaction import Transaction
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi

from onegov_orm import _sql
from onegov_orm._connection import (
    IDLE,
    IN_FAILED_TRANSACTION,
    IN_TRANSACTION,
    SchemaState,
)
from onegov_orm._differences import Differences
from onegov_orm._plans import Plan, Plans, PreparedStatement, Script
from onegov_orm._statements import Effects, effects_of

T = TypeVar("T")

_BEGIN: Final = re.compile(r"\s*(?:begin|start\s+transaction)\b[^;]*;?\s*", re.IGNORECASE)
#: As asyncpg's transaction blocks write it.
_COMMIT: Final = f"{_sql.COMMIT};"
_ROLLBACK: Final = f"{_sql.ROLLBACK};"

#: What the server says when it ends connections, and what asyncpg says then.
_SHUTDOWNS: Final = (asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)
_LOSSES: Final = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)
#: What has neither parameters nor rows: to prepare it would cost a message more.
_SIMPLE: Final = (_sql.SCRIPT, *_sql.SAVEPOINTS)

_numbers = itertools.count(1)


def lost(reason: str) -> Exception:
    """Return the error of a lost connection, which SQLAlchemy knows with the other drivers."""
    error: Any = AsyncAdapt_asyncpg_dbapi.OperationalError
    return error(f"the connection is lost: {reason}")  # type: ignore[no-any-return]


class Info(NamedTuple):
    """What a connection is about."""

    server_version: int
    host: str
    dbname: str
    user: str


class SchemaTransaction(Transaction):  # type: ignore[misc]
    """A transaction of asyncpg's that says what it means that its connection is gone."""

    async def commit(self) -> None:
        """Commit."""
        if self._connection.is_closed():
            raise lost("nothing was committed")
        await super().commit()


class SchemaConnection(SchemaState, asyncpg.Connection):  # type: ignore[misc]
    """An asyncpg connection whose transactions start with its schema's prelude."""

    pipelines: bool = False
    #: Whether statements are prepared under a name, which a pooler may not know.
    keeps_plans: bool = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begin_sql: str | None = None
        self._is_failed = False
        self._knows_rows = False
        self.plans = Plans(Differences())
        self._neutral_path = self._reported_search_path()
        self._reports_search_path = self._neutral_path is not None

    # -- what asyncpg offers, after what is due

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Execute SQL, after what is due; without arguments as many statements as it has."""
        if args:
            status: str = await self._with_plan(query, "status", *args, timeout=timeout)
            return status
        if query in (_COMMIT, _ROLLBACK):
            return await self._end(query)
        if self._transaction_status() == IDLE and _BEGIN.fullmatch(query):
            return await self._start(query.strip().rstrip(";"))
        preamble = self._preamble_for(query)
        # A statement that can't stand in an implicit transaction goes alone.
        if preamble and self._wants_autocommit:
            await self.send(preamble)
            preamble = ""
        return await self.send(preamble + query, timeout)

    def transaction(self, **kwargs: Any) -> SchemaTransaction:
        """Return a block of asyncpg's: a transaction, or a savepoint in the one that is open."""
        options = {"isolation": None, "readonly": False, "deferrable": False, **kwargs}
        return SchemaTransaction(self, **options)

    async def prepare(self, query: str, **kwargs: Any) -> Any:
        """Prepare a statement, or return one that was prepared earlier, after what is due."""
        if query.startswith(_SIMPLE) and (query.startswith(_sql.SCRIPT) or ";" not in query):
            return Script(self, query)
        effects = effects_of(query)
        if effects is not Effects.NONE and self.external_opening is not None:
            self._refuse(effects, is_open=False)
        schema = self.prelude.schema if self.prelude else None
        # SQLAlchemy's adapter names its statements None.
        given = {key: value for key, value in kwargs.items() if value is not None}
        plan = None if given else self.plans.find(query, schema)
        if plan is None:
            # Preparing has no effects: what the text needs is due when it is executed.
            await self.open_for(query if Effects.OUTSIDE_TRANSACTION in effects else "")
            if self._knows_rows:
                # asyncpg would go on with the columns that a table's rows had before.
                await self.reload_schema_state()
            name = f"onegov_{next(_numbers):x}" if self.keeps_plans else ""
            is_failed = self._is_failed
            statement = await self.watched(super().prepare(query, **{"name": name, **given}))
            # In a failed transaction, what ends it can be prepared.
            self._is_failed = is_failed
            common = self.prelude.extensions_schema if self.prelude else ""
            plan = Plan(statement, schema, common)
            self._knows_rows = plan.returns_rows_of_tables
            if self.keeps_plans and not given and not self._knows_rows:
                self.plans.keep(plan)
        return PreparedStatement(self, plan)

    async def executemany(self, command: str, args: Any, *, timeout: float | None = None) -> None:
        """Execute a statement for each set of arguments."""
        await (await self.prepare(command)).executemany(args, timeout=timeout)

    async def fetch(self, query: str, *args: Any, timeout: Any = None, **kwargs: Any) -> Any:
        """Fetch all rows of a query."""
        return await self._with_plan(query, "fetch", *args, timeout=timeout, **kwargs)

    async def fetchrow(self, query: str, *args: Any, timeout: Any = None, **kwargs: Any) -> Any:
        """Fetch the first row of a query."""
        return await self._with_plan(query, "fetchrow", *args, timeout=timeout, **kwargs)

    async def fetchval(
        self, query: str, *args: Any, column: int = 0, timeout: float | None = None
    ) -> Any:
        """Fetch one value of a query."""
        plan = await self.prepare(query)
        return await plan.fetchval(*args, column=column, timeout=timeout)

    async def fetchmany(self, query: str, args: Any, *, timeout: Any = None, **_: Any) -> Any:
        """Fetch the rows of a statement for each set of arguments."""
        return await (await self.prepare(query)).fetchmany(args, timeout=timeout)

    def cursor(self, query: str, *args: Any, **kwargs: Any) -> Any:
        """Refuse asyncpg's own cursor, which has no moment for what is due."""
        raise asyncpg.InterfaceError("prepare() the query, and use the statement's cursor()")

    async def copy_from_table(self, *args: Any, **kwargs: Any) -> Any:
        """Copy a table out, after what is due."""
        await self.open_for("")
        return await self._copied(super().copy_from_table(*args, **kwargs))

    async def copy_from_query(self, query: str, *args: Any, **kwargs: Any) -> Any:
        """Copy the rows of a query out, after what is due."""
        await self.open_for(query)
        return await self._copied(super().copy_from_query(query, *args, **kwargs))

    async def copy_to_table(self, *args: Any, **kwargs: Any) -> Any:
        """Copy into a table, after what is due."""
        await self.open_for("")
        return await self._copied(super().copy_to_table(*args, **kwargs))

    async def copy_records_to_table(self, *args: Any, **kwargs: Any) -> Any:
        """Copy records into a table, after what is due."""
        await self.open_for("")
        return await self._copied(super().copy_records_to_table(*args, **kwargs))

    async def add_listener(self, channel: str, callback: Any) -> None:
        """Listen to a channel; the connection is closed when it is given back."""
        await self.open_for(_sql.listen(channel))
        await super().add_listener(channel, callback)

    # -- what is due

    async def open_for(self, query: str) -> None:
        """Send what is due as a message of its own."""
        preamble = self._preamble_for(query)
        if preamble:
            await self.send(preamble)

    async def send(self, sql: str, timeout: float | None = None) -> str:
        """Execute SQL as it is and return the server's status message."""
        self.refuse_if_abandoned()
        try:
            status: str = await self.watched(super().execute(sql, timeout=timeout))
        except BaseException as error:
            self.has_failed(error)
            raise
        return status

    async def clean(self) -> None:
        """Make the connection fit for the next customer; an open transaction ends."""
        if self.abandoned or self.is_closed():
            return
        if not self.is_idle:
            await self._end(_ROLLBACK)
        self._begin_sql = self._top_xact = None
        sql = self.cleaning()
        if sql:
            await self.send(sql)
        if sql == _sql.DISCARD_ALL:
            self.plans.clear()
        self.was_cleaned()

    def forget_plans(self) -> None:
        """Do nothing: `Plans` knows whose the statements are."""

    def share(self, differences: Differences) -> None:
        """Learn together with the other connections of an engine."""
        self.plans.share(differences)

    def expect_others(self, opening: Sequence[str]) -> None:
        """Expect that others use the server's connection between the transactions."""
        super().expect_others(opening)
        self.keeps_plans = False

    # -- the connection's end

    @property
    def closed(self) -> bool:
        """Whether the connection is closed."""
        return bool(self.is_closed())

    def fileno(self) -> int:
        """Return the number of the socket."""
        return int(self._transport.get_extra_info("socket").fileno())

    @property
    def info(self) -> Info:
        """What the connection is about, by the names that psycopg has for it."""
        version = self.get_server_version()
        address = self._addr if isinstance(self._addr, str) else self._addr[0]
        number = version.major * 10_000 + version.minor
        return Info(number, address, self._params.database, self._params.user)

    async def close(self, *, timeout: float | None = None) -> None:
        """Close the connection; in a forked child the socket is left to the parent."""
        if not self.abandoned:
            await super().close(timeout=timeout)

    def terminate(self) -> None:
        """Close the connection at once."""
        if not self.abandoned:
            super().terminate()

    def hang_up(self) -> None:
        """Close the connection at once, without waiting for anything."""
        self.terminate()

    def __del__(self) -> None:
        # The parent of a forked child goes on using the socket, and the loop's selector.
        if not self.abandoned:
            super().__del__()

    # -- inside

    async def _start(self, begin: str) -> str:
        """Begin a transaction; one that can't is not left half open."""
        self._begin_sql = begin
        self._wants_autocommit = False
        try:
            return await self.send("; ".join(self.due("")))
        except BaseException as error:
            self._top_xact = None
            if isinstance(error, asyncpg.PostgresError) and not self.is_closed():
                await self._end(_ROLLBACK)
            raise

    async def _end(self, query: str) -> str:
        """Commit or roll back."""
        if self.abandoned and query == _ROLLBACK:
            return ""
        self.refuse_if_abandoned()
        is_failed = self._transaction_status() == IN_FAILED_TRANSACTION
        if is_failed:
            self.has_failed()
        self.transactions += 1
        self._begin_sql = None
        if self.is_idle:
            return ""
        status: str = await self.watched(super().execute(query))
        if query == _COMMIT and status == _sql.ROLLBACK:
            self.has_failed()
            raise asyncpg.InFailedSQLTransactionError(
                "the transaction failed earlier and was rolled back: nothing was committed"
            )
        return status

    def _preamble_for(self, query: str) -> str:
        self._wants_autocommit = self._begin_sql is None
        return self.preamble(query)

    async def _with_plan(self, query: str, method: str, *args: Any, **kwargs: Any) -> Any:
        plan = await self.prepare(query)
        return await getattr(plan, method)(*args, **kwargs)

    async def watched(self, work: Awaitable[T]) -> T:
        """Note whether the transaction goes on, which asyncpg does not tell."""
        try:
            result = await work
        except BaseException as error:
            self._is_failed = True
            if self._is_lost(error):
                raise lost(str(error)) from error
            raise
        self._is_failed = False
        return result

    def _is_lost(self, error: BaseException) -> bool:
        """Tell whether the server ended the connection; nobody else gets it then."""
        # The class without a subclass: asyncpg heard of the end, and does not know it yet.
        if isinstance(error, _SHUTDOWNS) or type(error) is asyncpg.InternalClientError:
            self.terminate()
            return True
        return isinstance(error, _LOSSES) and self.is_closed()

    async def _copied(self, work: Awaitable[T]) -> T:
        """Close the connection if a COPY is cancelled: asyncpg may wait for its end for ever."""
        try:
            return await self.watched(work)
        except asyncio.CancelledError:
            self.terminate()
            raise

    def _transaction_status(self) -> int:
        if not self.is_in_transaction():
            return IDLE
        return IN_FAILED_TRANSACTION if self._is_failed else IN_TRANSACTION

    def _reported_search_path(self) -> str | None:
        return getattr(self.get_settings(), "search_path", None)

    def _begin(self) -> str:
        return self._begin_sql or _sql.BEGIN
