"""The statements that a connection has prepared, and for whom.

The server plans a prepared statement anew when the search path is another one, but the types
of its parameters and columns stay. A statement whose types are the same for all customers is
shared by them; any other one belongs to the schema that it was prepared in. One that turns out
to return other columns in another schema is prepared for each of them from then on.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any, Final

import asyncpg

from onegov_orm._differences import Differences

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
    """A prepared statement, which tells its connection when it fails."""

    __slots__ = (
        "_attributes",
        "_connection",
        "_statement",
        "is_shared",
        "query",
        "returns_rows_of_tables",
        "schema",
    )

    def __init__(self, connection: Any, statement: Any, schema: str | None) -> None:
        self._connection = connection
        self._statement = statement
        self.query: str = statement.get_query()
        self.schema = schema
        self._attributes = statement.get_attributes()
        self.is_shared = self._has_common_types()
        #: Whether a column is a whole row of a table, whose columns may change.
        self.returns_rows_of_tables = any(
            attribute.type.kind == "composite" for attribute in self._attributes
        )

    def get_attributes(self) -> Any:
        """Return the columns, as they were when the statement was prepared."""
        return self._attributes

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

    async def status(self, *args: Any, **kwargs: Any) -> Any:
        """Execute, and return the server's status message."""
        await self.fetch(*args, **kwargs)
        return self._statement.get_statusmsg()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._statement, name)

    async def _run(self, method: str, args: Any, kwargs: Any) -> Any:
        connection = self._connection
        await connection.open_for(self.query)
        try:
            return await connection._watched(getattr(self._statement, method)(*args, **kwargs))
        except (asyncpg.PostgresError, asyncpg.InternalClientError) as error:
            connection.plans.forget(self, error)
            raise

    def _has_common_types(self) -> bool:
        if _UNTYPED.search(self.query):
            return False
        types = [attribute.type for attribute in self._attributes]
        types.extend(self._statement.get_parameters())
        prelude = self._connection.prelude
        common = ("pg_catalog", prelude.extensions_schema if prelude else "pg_catalog")
        return all(kind.schema in common for kind in types)


class Script:
    """Several statements without parameters or rows, which the server does not prepare."""

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
