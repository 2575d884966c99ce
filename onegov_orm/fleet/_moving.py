"""Changes what a schema is called and what its mark tells, while nobody else works in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from onegov_orm import _sql
from onegov_orm._ddl import run_script
from onegov_orm.errors import PermissionDenied, SchemaBusy, SchemaExists
from onegov_orm.fleet import _sql_lifecycle
from onegov_orm.provisioning import lock, lock_key, schema_exists, sqlstate

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.fleet._context import FleetContext
    from onegov_orm.names import SchemaName

#: How long others are waited for.
LOCK_TIMEOUT_SECONDS: Final = 10.0

#: ``lock_not_available``, and ``deadlock_detected``: two wait for each other.
_BUSY: Final = ("55P03", "40P01")
_DENIED: Final = "42501"
#: ``duplicate_schema``, and ``unique_violation`` for one that is being made right now.
_DUPLICATES: Final = ("42P06", "23505")

_TAKEN: Final = "drop or rename that one first, or use another name"


@contextmanager
def working_on(
    context: FleetContext,
    *schemas: SchemaName,
    lock_timeout_seconds: float | None = None,
) -> Iterator[Connection]:
    """Give a connection in a transaction that has the locks of these schemas.

    Raises `SchemaBusy` if others don't let go of what it needs, and `PermissionDenied`.
    """
    seconds = LOCK_TIMEOUT_SECONDS if lock_timeout_seconds is None else lock_timeout_seconds
    try:
        with (
            context.connected(schemas[0], lock_timeout_seconds=seconds) as connection,
            connection.begin(),
        ):
            # In one order for all, so that nobody waits in a circle.
            for schema in sorted(schemas):
                lock(connection, f"schema {schema}")
            yield connection
    except DBAPIError as exc:
        if sqlstate(exc) in _BUSY:
            raise SchemaBusy(schemas[0], _holders(context, *schemas)) from exc
        if sqlstate(exc) == _DENIED:
            role = context.engine.url.username or "the application's role"
            owner = _sql_lifecycle.own_schema(schemas[0], role)
            raise PermissionDenied(str(exc.orig), owner) from exc
        raise


def move(connection: Connection, schema: SchemaName, to: SchemaName, advice: str = _TAKEN) -> None:
    """Rename a schema; raises `SchemaExists`.

    Nobody else is in the middle of a transaction there: whoever has read one customer must not
    go on in another one that gets the name.
    """
    if schema_exists(connection, to):
        raise SchemaExists(to, advice)
    _keep_others_away(connection, schema)
    try:
        run_script(connection, [_sql.rename_schema(schema, to)])
    except DBAPIError as exc:
        if sqlstate(exc) in _DUPLICATES:
            raise SchemaExists(to, advice) from exc
        raise


def lock_capacity(connection: Connection) -> int:
    """Return how many locks the server has for all transactions together."""
    return int(connection.execute(text(_sql_lifecycle.LOCK_CAPACITY)).scalar_one())


def _keep_others_away(connection: Connection, schema: SchemaName) -> None:
    rows = connection.execute(text(_sql_lifecycle.LOCKABLE), {"schema": schema})
    tables = list(rows.scalars())
    if not tables:
        return
    if len(tables) <= lock_capacity(connection) // 2:
        run_script(connection, [_sql_lifecycle.lock_tables(tables)])
    elif holders := _read_holders(connection, schema):
        # More tables than locks: all that can be done is to look.
        raise SchemaBusy(schema, holders)


def _holders(context: FleetContext, *schemas: SchemaName) -> list[str]:
    with context.connected() as connection, connection.begin():
        found = [_read_holders(connection, schema) for schema in schemas]
    return list(dict.fromkeys(holder for holders in found for holder in holders))


def _read_holders(connection: Connection, schema: SchemaName) -> list[str]:
    parameters = {"schema": schema, "key": lock_key(f"schema {schema}")}
    rows = connection.execute(text(_sql_lifecycle.HOLDERS), parameters)
    return [f"process {pid}, {name}, for {seconds or 0:.1f} s" for pid, name, seconds in rows]
