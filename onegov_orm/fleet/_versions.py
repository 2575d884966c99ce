"""Reads the versions of the whole fleet, many schemas in one query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from onegov_orm import _sql
from onegov_orm.errors import SchemaNotFound
from onegov_orm.fleet import _sql_migrations

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.fleet._context import FleetContext
    from onegov_orm.fleet.registry import Customer
    from onegov_orm.names import SchemaName

#: Each table and its index is locked, and the server has room for some 6,400 locks.
BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a schema stands: its versions, whether it has Alembic's table, its comment."""

    versions: frozenset[str]
    has_table: bool
    comment: str | None


def read_standings(
    context: FleetContext, schemas: Iterable[str] | None = None
) -> dict[SchemaName, Standing]:
    """Return where the customers stand, by schema, sorted by name.

    Raises `SchemaNotFound` and `ForeignSchema` for names that are given and no customer's.
    """

    def read(customers: list[Customer]) -> dict[str, list[str]]:
        with context.connected() as connection:
            return _read(connection, customers)

    customers, versions = context.ask(schemas, read)
    return {
        customer.schema: Standing(
            frozenset(versions.get(customer.schema, ())),
            customer.has_versions,
            customer.comment,
        )
        for customer in customers
    }


def read_standing(connection: Connection, schema: str) -> Standing:
    """Return where one schema stands by now; raises `SchemaNotFound`."""
    row = connection.execute(text(_sql_migrations.STANDING), {"schema": schema}).first()
    if row is None:
        raise SchemaNotFound(schema)
    has_table, comment = row
    rows: Sequence[Any] = _query(connection, [schema]) if has_table else ()
    return Standing(frozenset(version for _, version in rows), has_table, comment)


def _read(connection: Connection, customers: Iterable[Customer]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    names = (customer.schema for customer in customers if customer.has_versions)
    while batch := list(islice(names, BATCH)):
        with connection.begin():
            for schema, version in _query(connection, batch):
                found.setdefault(schema, []).append(version)
    return found


def _query(connection: Connection, schemas: Sequence[str]) -> Sequence[Any]:
    sql = _sql.SCRIPT + _sql_migrations.versions_of(schemas)
    options = {"no_parameters": True}
    return connection.exec_driver_sql(sql, execution_options=options).all()
