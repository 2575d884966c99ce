"""The tables of all bases as one script, compiled once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from sqlalchemy import Index, MetaData, Sequence as SchemaSequence, Table
from sqlalchemy.dialects.postgresql import CreateDomainType, CreateEnumType
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.schema import CreateIndex, CreateSequence, CreateTable, ExecutableDDLElement
from sqlalchemy.types import SchemaType



if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Dialect


class Made(Enum):
    """What kind of thing a statement of the script makes."""

    RELATION = "relation"
    TYPE = "type"
    #: Something that goes with a table, such as a comment or a foreign key added later.
    PART = "part"
    #: Something that goes with the whole, such as a DDL listener on the metadata.
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Entry:
    """One statement of the script; ``name`` is what it makes, or the table it belongs to."""

    made: Made
    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a schema on the server holds."""

    relations: frozenset[str]
    types: frozenset[str]

    def has(self, entry: Entry) -> bool:
        """Tell whether what the entry makes is there."""
        if entry.made is Made.TYPE:
            return entry.name in self.types
        return entry.name in self.relations


class Script:
    """How to make the tables of one metadata that live in one schema.

    ``schema`` is the schema written in the models, None for the tables of customers.
    """

    def __init__(self, metadata: MetaData, schema: str | None, dialect: Dialect) -> None:
        self._metadata = metadata
        self._tables = [table for table in metadata.sorted_tables if table.schema == schema]
        self.needs_connection = _has_live_listeners(metadata, self._tables)
        self.entries = [] if self.needs_connection else _compile(metadata, self._tables, dialect)
        self._whole = "".join(f"{entry.sql};\n" for entry in self.entries)
        self._names = [table.name for table in self._tables]

    def make_all(self, connection: Connection) -> None:
        """Make everything, in a schema that has nothing of it."""
        if self.needs_connection:
            self._metadata.create_all(connection, tables=self._tables, checkfirst=False)
        elif self._whole:
            run_script(connection, self._whole)

    def make_missing(self, connection: Connection, inventory: Inventory) -> None:
        """Make what the schema lacks."""
        if self.needs_connection:
            self._metadata.create_all(connection, tables=self._tables)
            return
        missing = self._missing(inventory)
        if missing:
            run_script(connection, "".join(f"{entry.sql};\n" for entry in missing))

    def is_complete_in(self, inventory: Inventory) -> bool:
        """Tell whether the schema holds everything."""
        if self.needs_connection:
            return inventory.relations.issuperset(self._names)
        return not self._missing(inventory)

    def is_absent_from(self, inventory: Inventory) -> bool:
        """Tell whether the schema holds no table of this script."""
        return inventory.relations.isdisjoint(self._names)

    def _missing(self, inventory: Inventory) -> list[Entry]:
        made = (Made.RELATION, Made.TYPE)
        return [
            entry
            for entry in self.entries
            if (entry.made in made or entry.made is Made.PART) and not inventory.has(entry)
        ]


def run_script(connection: Connection, script: str) -> None:
    """Send several statements at once, none of which takes parameters."""
    connection.exec_driver_sql(script, execution_options={"no_parameters": True})


def scripts_of(
    metadatas: Iterable[MetaData], schema: str | None, dialect: Dialect
) -> Sequence[Script]:
    """Return the scripts for all metadatas; tables in other schemas are left out."""
    return [Script(metadata, schema, dialect) for metadata in metadatas]


def _has_live_listeners(metadata: MetaData, tables: Iterable[Table]) -> bool:
    """Tell whether a function listens to the making of tables and wants a connection."""
    for target in (metadata, *tables):
        for name in ("before_create", "after_create"):
            for listener in getattr(target.dispatch, name):
                if not isinstance(listener, ExecutableDDLElement) and not _is_of_type(listener):
                    return True
    return False


def _is_of_type(listener: Any) -> bool:
    """Tell whether SQLAlchemy's enums and domains listen here, to be made with the table.

    They listen with a bound method, wrapped in another way by each SQLAlchemy.
    """
    function = getattr(listener, "func", listener)
    owner = getattr(function, "__self__", None) or getattr(function, "target", None)
    return isinstance(owner, SchemaType)


def _compile(metadata: MetaData, tables: Sequence[Table], dialect: Dialect) -> list[Entry]:
    entries: list[Entry] = []
    dialect = _without_parameters(dialect)

    def record(element: Any, *_args: Any, **_kwargs: Any) -> None:
        sql = str(element.compile(dialect=dialect)).strip().rstrip(";")
        made, name = _classify(element, dialect)
        entries.append(Entry(made, name, sql))

    metadata.create_all(MockConnection(dialect, record), tables=tables, checkfirst=False)
    return entries


def _without_parameters(dialect: Dialect) -> Dialect:
    """Return a dialect that writes percent signs once, as a script needs them."""
    plain: Any = copy.copy(dialect)
    plain.paramstyle = "named"
    plain.identifier_preparer = plain.preparer(plain)
    return plain  # type: ignore[no-any-return]


def _classify(element: Any, dialect: Any) -> tuple[Made, str]:
    made = getattr(element, "element", None)
    if isinstance(element, (CreateEnumType, CreateDomainType)):
        return Made.TYPE, str(made.name)
    if isinstance(element, CreateIndex) and isinstance(made, Index):
        quoted = str(dialect.identifier_preparer.format_index(made))
        return Made.RELATION, quoted.removeprefix('"').removesuffix('"').replace('""', '"')
    if isinstance(element, CreateTable) and isinstance(made, Table):
        return Made.RELATION, made.name
    if isinstance(element, CreateSequence) and isinstance(made, SchemaSequence):
        return Made.RELATION, made.name
    table = _table_of(element)
    return (Made.PART, table.name) if table is not None else (Made.WHOLE, "")


def _table_of(element: Any) -> Table | None:
    for owner in (getattr(element, "element", None), getattr(element, "target", None)):
        if isinstance(owner, Table):
            return owner
        table = getattr(owner, "table", None)
        if isinstance(table, Table):
            return table
    return None


def inventory_of(row: Any) -> Inventory:
    """Return the inventory from the row that `_sql.INVENTORY` yields; no row, no schema."""
    if row is None:
        return Inventory(frozenset(), frozenset())
    return Inventory(frozenset(row[0]), frozenset(row[1]))


