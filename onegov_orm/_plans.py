"""The statements that a connection has prepared, and for whom.

The server plans a prepared statement anew when the search path is another one, but the types
of its parameters and columns stay. A statement whose types are the same for all customers is
shared by them; any other one belongs to the schema that it was prepared in. One that turns out
to return other columns in another schema is prepared for each of them from then on.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Generator
from typing import Any, Final, TypeVar

import asyncpg

from onegov_orm._differences import Differences

T = TypeVar("T")

#: How many statements a connection keeps prepared.
MAX_PLANS: Final = 100

#: A parameter without a type of its own gets one from the tables, which may differ.
_UNTYPED: Final = re.compile(r"\$\d+(?!\d|::)")

#: Classes of SQLSTATE that a statement may fail with because it was made for other tables.
_PLAN_ERRORS: Final = frozenset({"0A", "22", "26", "42", "XX"})

#: Somebody had the server forget its prepared statements, most likely all of them.
_DISCARDED: Final = asyncpg.InvalidSQLStatementNameError

#: The statement's text and its schema, None if it is the same for all.
Key = tuple[str, str | None]


class Plan:
    """A prepared statement, as long as it is kept."""

    __slots__ = (
        "attributes",
        "is_shared",
        "query",
        "returns_rows_of_tables",
        "schema",
        "statement",
    )

    def __init__(self, statement: Any, schema: str | None, extensions_schema: str) -> None:
        self.statement = statement
        self.query: str = statement.get_query()
        self.schema = schema
        #: The columns, as they were when the statement was prepared.
        self.attributes = statement.get_attributes()
        self.is_shared = self._has_common_types(extensions_schema)
        #: Whether a column is a whole row of a table, whose columns may change.
        self.returns_rows_of_tables = any(
            attribute.type.kind == "composite" for attribute in self.attributes
        )

    def _has_common_types(self, extensions_schema: str) -> bool:
        if _UNTYPED.search(self.query):
            return False
        types = [attribute.type for attribute in self.attributes]
        types.extend(self.statement.get_parameters())
        return all(kind.schema in ("pg_catalog", extensions_schema) for kind in types)


class PreparedStatement:
    """A plan in the hands of one customer: it does what asyncpg's class of this name does.

    It is of no use any more when its connection was given back.
    """

    __slots__ = ("_checkins", "_connection", "_plan")

    def __init__(self, connection: Any, plan: Plan) -> None:
        self._connection = connection
        self._checkins = connection.checkins
        self._plan = plan

    def get_attributes(self) -> Any:
        """Return the columns."""
        return self._plan.attributes

    def get_statusmsg(self) -> str | None:
        """Return the server's message about the last execution."""
        status: str | None = self._plan.statement.get_statusmsg()
        return status

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        """Execute, and return all rows."""
        return await self._run("fetch", args, kwargs)

    async def fetchrow(self, *args: Any, **kwargs: Any) -> Any:
        """Execute, and return the first row."""
        return await self._run("fetchrow", args, kwargs)

    async def fetchval(self, *args: Any, **kwargs: Any) -> Any:
        """Execute, and return one value."""
        return await self._run("fetchval", args, kwargs)

    async def fetchmany(self, args: Any, **kwargs: Any) -> Any:
        """Execute for each set of arguments, and return the rows."""
        return await self._run("fetchmany", (args,), kwargs)

    async def executemany(self, args: Any, **kwargs: Any) -> Any:
        """Execute for each set of arguments."""
        return await self._run("executemany", (args,), kwargs)

    async def explain(self, *args: Any, **kwargs: Any) -> Any:
        """Return the server's plan."""
        return await self._run("explain", args, kwargs)

    async def status(self, *args: Any, **kwargs: Any) -> Any:
        """Execute, and return the server's status message."""
        await self.fetch(*args, **kwargs)
        return self.get_statusmsg()

    def cursor(self, *args: Any, **kwargs: Any) -> Cursor:
        """Return a cursor on the server, to be awaited or iterated over."""
        return Cursor(self, self._plan.statement.cursor(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        self.refuse_if_late()
        return getattr(self._plan.statement, name)

    async def open(self) -> None:
        """Send what is due before the statement."""
        self.refuse_if_late()
        await self._connection.open_for(self._plan.query)

    async def watched(self, work: Awaitable[T]) -> T:
        """Await something that the server does for the statement."""
        connection = self._connection
        try:
            result: T = await connection.watched(work)
        except (asyncpg.PostgresError, asyncpg.InternalClientError) as error:
            connection.plans.forget(self._plan, error)
            raise
        return result

    async def _run(self, method: str, args: Any, kwargs: Any) -> Any:
        connection, plan = self._connection, self._plan
        if self._checkins != connection.checkins:
            self.refuse_if_late()
        await connection.open_for(plan.query)
        try:
            return await connection.watched(getattr(plan.statement, method)(*args, **kwargs))
        except (asyncpg.PostgresError, asyncpg.InternalClientError) as error:
            connection.plans.forget(plan, error)
            raise

    def refuse_if_late(self) -> None:
        """Raise ``InterfaceError`` if the connection may be somebody else's by now."""
        if self._checkins != self._connection.checkins:
            raise asyncpg.InterfaceError(
                "the prepared statement's connection was given back to the pool"
            )


class Cursor:
    """A cursor on the server, in the hands of one customer like its statement."""

    __slots__ = ("_cursor", "_factory", "_statement")

    def __init__(self, statement: PreparedStatement, factory: Any) -> None:
        self._statement = statement
        self._factory = factory
        self._cursor: Any = None

    def __await__(self) -> Generator[Any, None, Cursor]:
        return self._opened().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        await self._statement.open()
        rows = aiter(self._factory)
        while True:
            self._statement.refuse_if_late()
            # The end of the rows is no failure.
            row = await self._statement.watched(anext(rows, None))
            if row is None:
                return
            yield row

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next rows."""
        return await self._move("fetch", args, kwargs)

    async def fetchrow(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next row, None after the last."""
        return await self._move("fetchrow", args, kwargs)

    async def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Skip rows."""
        return await self._move("forward", args, kwargs)

    async def _opened(self) -> Cursor:
        await self._statement.open()
        self._cursor = await self._statement.watched(self._factory)
        return self

    async def _move(self, method: str, args: Any, kwargs: Any) -> Any:
        self._statement.refuse_if_late()
        return await self._statement.watched(getattr(self._cursor, method)(*args, **kwargs))


class Script:
    """Statements without parameters or rows, which the server need not prepare."""

    def __init__(self, connection: Any, text: str) -> None:
        self._connection = connection
        self._text = text
        self._status: str | None = None

    def get_attributes(self) -> Any:
        """Return no columns."""
        return ()

    async def fetch(self) -> Any:
        """Execute, and return no rows."""
        self._status = await self._connection.execute(self._text)
        return ()

    def get_statusmsg(self) -> str | None:
        """Return the server's message about the last statement."""
        return self._status


class Plans:
    """The statements of one connection, the most recently used ones."""

    def __init__(self, differences: Differences) -> None:
        self._plans: OrderedDict[Key, Plan] = OrderedDict()
        self._differences = differences
        self._renewals = differences.renewals

    def share(self, differences: Differences) -> None:
        """Learn together with the other connections of an engine."""
        self._differences = differences
        self._renewals = differences.renewals

    def find(self, query: str, schema: str | None) -> Plan | None:
        """Return the statement if it was prepared for this schema, or for all."""
        if self._renewals != self._differences.renewals:
            self._renewals = self._differences.renewals
            self._plans.clear()
        key: Key = (query, None)
        plan = self._plans.get(key)
        if plan is None:
            key = (query, schema or "")
            plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
        return plan

    def keep(self, plan: Plan) -> None:
        """Keep the statement; the one that was not used for the longest time goes."""
        self._plans[self._key(plan)] = plan
        if len(self._plans) > MAX_PLANS:
            self._plans.popitem(last=False)

    def forget(self, plan: Plan, error: Exception) -> None:
        """Prepare a statement that failed anew the next time, if the plan may be why."""
        if isinstance(error, _DISCARDED):
            self.clear()
        # An error without a state is asyncpg's own: the type of a row is not what it was.
        if str(getattr(error, "sqlstate", "XX"))[:2] in _PLAN_ERRORS:
            self._plans.pop(self._key(plan), None)
        if isinstance(error, asyncpg.InvalidCachedStatementError):
            self._differences.statements.add(plan.query)
            self._differences.renewals += 1

    def clear(self) -> None:
        """Forget all statements, which the server has forgotten too."""
        self._plans.clear()

    def _key(self, plan: Plan) -> Key:
        is_shared = plan.is_shared and plan.query not in self._differences.statements
        return plan.query, (None if is_shared else plan.schema or "")
