"""Who the customers are: what the marks on the database tell, with sizes and dates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from onegov_orm.errors import ForeignSchema, InvalidSchemaName, SchemaNotFound
from onegov_orm.fleet import _sql_registry
from onegov_orm.marks import Mark, State
from onegov_orm.names import SchemaName, found_schema

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


@dataclass(frozen=True, slots=True)
class Customer:
    """A schema of the fleet: its name, its mark, and which tables of the library's it has.

    ``comment`` is what the mark was read from. ``has_versions`` tells whether Alembic's table
    is there, ``has_upgrades`` whether that of the upgrade tasks is.
    """

    schema: SchemaName
    mark: Mark
    has_versions: bool = False
    has_upgrades: bool = False
    comment: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return what is known, as JSON has it."""
        return {"schema": str(self.schema), **self.mark.as_dict()}


@dataclass(frozen=True, slots=True)
class Overview:
    """A customer in numbers: bytes on disk, tables, and about how many rows.

    The rows are the server's estimate, of the last time that it looked (``ANALYZE``).
    """

    schema: SchemaName
    state: State
    size_bytes: int
    tables: int
    rows_estimate: int
    created: datetime | None
    migrated: datetime | None
    note: str
    revisions: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, as JSON has them."""
        return {
            "schema": str(self.schema),
            "state": self.state.value,
            "size_bytes": self.size_bytes,
            "tables": self.tables,
            "rows_estimate": self.rows_estimate,
            "created": self.created.isoformat() if self.created else None,
            "migrated": self.migrated.isoformat() if self.migrated else None,
            "note": self.note,
            "revisions": list(self.revisions),
        }


def read_customers(
    connection: Connection,
    namespace: str | None,
    states: Collection[State],
    wanted: Sequence[str] | None,
) -> list[Customer]:
    """Return the marked schemas, sorted; with names, these, and errors for what is wrong."""
    parameters = {
        "prefix": None if namespace is None else f"{namespace}-",
        "names": None if wanted is None else list(wanted),
    }
    rows = connection.execute(text(_sql_registry.CUSTOMERS), parameters).all()
    if wanted is not None:
        _refuse_strangers(wanted, {name: comment for name, comment, *_ in rows})
    found = [
        Customer(name, mark, has_versions, has_upgrades, comment)
        for row_name, comment, has_versions, has_upgrades in rows
        if (mark := Mark.parse(comment)) is not None
        and (name := _name_of(row_name)) is not None
        and mark.state in states
    ]
    if wanted is not None:
        missing = set(wanted) - {customer.schema for customer in found}
        if missing:
            raise SchemaNotFound(min(missing))
    return found


def read_overview(connection: Connection, customers: Sequence[Customer]) -> list[Overview]:
    """Return the numbers of customers, in their order; reads the catalogs once."""
    names = [str(customer.schema) for customer in customers]
    rows = connection.execute(text(_sql_registry.STATISTICS), {"names": names})
    numbers = {name: (size, tables, estimate) for name, size, tables, estimate in rows}
    return [
        Overview(
            customer.schema,
            customer.mark.state,
            *numbers.get(customer.schema, (0, 0, 0)),
            customer.mark.created,
            customer.mark.migrated,
            customer.mark.note,
        )
        for customer in customers
    ]


def _refuse_strangers(wanted: Sequence[str], comments: dict[str, str | None]) -> None:
    for name in wanted:
        if name not in comments:
            raise SchemaNotFound(name)
        if Mark.parse(comments[name]) is None:
            raise ForeignSchema(name)


def _name_of(name: str) -> SchemaName | None:
    """Return the name of a marked schema, None if the library would not have made it."""
    with suppress(InvalidSchemaName):
        return found_schema(name)
    return None
