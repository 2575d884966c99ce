"""The tables of all bases as one script, compiled once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from sqlalchemy import Index, MetaData, Table
from sqlalchemy.dialects.postgresql import CreateDomainType, CreateEnumType
from sqlalchemy.dialects.postgresql.named_types import NamedType
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.schema import CreateIndex, CreateSequence, CreateTable, ExecutableDDLElement
from sqlalchemy.sql.ddl import SchemaGenerator
from sqlalchemy.types import SchemaType

from onegov_orm import _sql
from onegov_orm._statements import HarmlessText
from onegov_orm.errors import ConfigurationError

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
    """One statement of the script: what it makes, and the table that this belongs to."""

    made: Made
    name: str
    table: str
    sql: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a schema on the server holds, what the role may do there, and its comment."""

    exists: bool
    relations: frozenset[str]
    types: frozenset[str]
    can_create: bool = True
    comment: str | None = None

    def has(self, entry: Entry) -> bool:
        """Tell whether what the entry makes is there."""
        if entry.made is Made.TYPE:
            return entry.name in self.types
        return (entry.table if entry.made is Made.PART else entry.name) in self.relations


class Recorder(SchemaGenerator):
    """Walks through a metadata as ``create_all`` does, and notes the statements.

    Left out is what lives in another schema than the one wanted, and what is taken: types
    and sequences that an earlier metadata has too. Listeners that want a live connection
    are not called.
    """

    def __init__(
        self,
        dialect: Dialect,
        schema: str | None,
        tables: Sequence[Table],
        taken: Iterable[tuple[Made, str]] = (),
    ) -> None:
        plain = without_parameters(dialect)
        connection = MockConnection(plain, self.record)
        super().__init__(plain, connection, tables=tables)  # type: ignore[no-untyped-call]
        self.entries: list[Entry] = []
        #: Whether some listener wants a connection, and the tables that have such listeners.
        self.is_live = False
        self.live_tables: set[str] = set()
        self._schema = schema
        self._taken = frozenset(taken)

    def walk(self, metadata: MetaData) -> None:
        """Note all that the metadata makes."""
        self.traverse_single(metadata)

    @contextmanager
    def with_ddl_events(self, target: Any, **arguments: Any) -> Iterator[None]:
        """Call the listeners before and after something is made."""
        self._fire(target.dispatch.before_create, target, arguments)
        yield
        self._fire(target.dispatch.after_create, target, arguments)

    def record(self, element: Any, *_args: Any, **_kwargs: Any) -> None:
        """Note one statement."""
        made, name, table = _classify(element, self.dialect)
        schema = _schema_of(_subject(element))
        can_repeat = made is Made.TYPE or isinstance(element, CreateSequence)
        if schema != self._schema or (can_repeat and (made, name) in self._taken):
            return
        sql = str(element.compile(dialect=self.dialect)).strip().rstrip(";")
        self.entries.append(Entry(made, name, table, sql))

    def call(self, listener: Any, target: Any, arguments: dict[str, Any]) -> None:
        """Note that a listener wants a live connection."""
        self.is_live = True
        table = _table_of(target)
        if table is not None:
            self.live_tables.add(table.name)

    def _fire(self, listeners: Iterable[Any], target: Any, arguments: dict[str, Any]) -> None:
        for listener in listeners:
            if _is_compilable(listener):
                listener(target, self.connection, _ddl_runner=self, **arguments)
            elif _schema_of(target) == self._schema:
                self.call(listener, target, arguments)


class Runner(Recorder):
    """Executes what the walk comes upon, and calls all listeners with a live connection."""

    def __init__(self, live: Connection, inventory: Inventory, is_first: bool, *args: Any) -> None:
        super().__init__(live.dialect, *args)
        self._live = live
        self._inventory = inventory
        self._is_first = is_first

    def call(self, listener: Any, target: Any, arguments: dict[str, Any]) -> None:
        """Call a listener, after what comes before it."""
        if isinstance(target, MetaData) and not self._is_first:
            return
        self.flush()
        listener(target, self._live, _ddl_runner=self, **arguments)

    def flush(self) -> None:
        """Execute what was noted since the last time."""
        _run(self._live, _lacking(self.entries, self._inventory, self._is_first))
        self.entries.clear()


class Script:
    """How to make the tables of one metadata that live in one schema.

    ``schema`` is the schema written in the models, None for the tables of customers.
    ``others`` are the schemas whose tables are made too; ``taken`` is what was made for an
    earlier metadata, and gets what this script makes.
    """

    def __init__(
        self,
        metadata: MetaData,
        schema: str | None,
        others: Iterable[str | None],
        dialect: Dialect,
        taken: set[tuple[Made, str]],
    ) -> None:
        self._metadata = metadata
        self._schema = schema
        self._taken = frozenset(taken)
        made = [
            table
            for table in list(metadata.tables.values())
            if table.schema in {schema, *others} and (Made.RELATION, table.name) not in taken
        ]
        self.tables = [table for table in made if table.schema == schema]
        self._names = [table.name for table in self.tables]
        _refuse_homeless_types(self.tables, dialect)
        recorder = Recorder(dialect, schema, made, taken)
        recorder.walk(metadata)
        self.is_live = recorder.is_live
        self.entries = tuple(recorder.entries)
        self._certain = [
            entry
            for entry in self.entries
            if entry.made is Made.TYPE
            or (entry.made is Made.RELATION and _is_certain(entry, recorder.live_tables))
        ]
        taken.update((entry.made, entry.name) for entry in self.entries)

    def make(self, connection: Connection, inventory: Inventory) -> None:
        """Make what the schema lacks.

        What goes with the whole is made where there is no table of the script yet.
        """
        is_first = self.is_absent_from(inventory)
        lacking = _lacking(self.entries, inventory, is_first)
        if not self.is_live:
            _run(connection, lacking)
            return
        _run(connection, [entry for entry in lacking if _is_alone(entry)])
        tables = [table for table in self.tables if table.name not in inventory.relations]
        taken = {*self._taken, *((entry.made, entry.name) for entry in self.entries)}
        runner = Runner(connection, inventory, is_first, self._schema, tables, taken)
        runner.walk(self._metadata)
        runner.flush()
        _run(connection, [entry for entry in lacking if entry.table in inventory.relations])

    def is_complete_in(self, inventory: Inventory) -> bool:
        """Tell whether the schema holds everything."""
        return all(inventory.has(entry) for entry in self._certain)

    def is_absent_from(self, inventory: Inventory) -> bool:
        """Tell whether the schema holds no table of this script."""
        return inventory.relations.isdisjoint(self._names)


def scripts_of(
    metadatas: Iterable[MetaData],
    schema: str | None,
    others: Iterable[str | None],
    dialect: Dialect,
) -> Sequence[Script]:
    """Return the scripts for all metadatas; tables in other schemas are left out."""
    taken: set[tuple[Made, str]] = set()
    return [Script(metadata, schema, others, dialect, taken) for metadata in metadatas]


def inventory_of(row: Any) -> Inventory:
    """Return the inventory from the row that `_sql.INVENTORY` yields."""
    exists, relations, types, can_create, comment = row
    return Inventory(exists, frozenset(relations), frozenset(types), bool(can_create), comment)


def run_script(
    connection: Connection, statements: Iterable[str], *, is_harmless: bool = False
) -> None:
    """Send several statements at once, none of which takes parameters.

    They are harmless if each is known to leave nothing behind on the connection; then they
    are not read for that.
    """
    # A semicolon of its own line, since a statement may end in a comment.
    script = "".join(f"{statement}\n;\n" for statement in statements)
    if script:
        text = _sql.SCRIPT + script
        connection.exec_driver_sql(
            HarmlessText(text) if is_harmless else text,
            execution_options={"no_parameters": True},
        )


def _run(connection: Connection, entries: Sequence[Entry]) -> None:
    run_script(connection, (entry.sql for entry in entries))


def _lacking(entries: Iterable[Entry], inventory: Inventory, is_first: bool) -> list[Entry]:
    return [
        entry
        for entry in entries
        if (is_first if entry.made is Made.WHOLE else not inventory.has(entry))
    ]


def _refuse_homeless_types(tables: Iterable[Table], dialect: Dialect) -> None:
    """Refuse types of shared tables that some customer's schema would get."""
    for column in (column for table in tables if table.schema for column in table.columns):
        kind: Any = column.type._unwrapped_dialect_impl(dialect)
        kind = getattr(kind, "item_type", kind)
        named: Any = kind.dialect_impl(dialect)
        is_made = isinstance(named, NamedType) and named.create_type
        if is_made and named.schema is None:
            raise ConfigurationError(
                f'the type "{named.name}" of {column} would be made in the schema of some '
                f"customer: give it schema={column.table.schema!r}"
            )


def _is_certain(entry: Entry, live_tables: set[str]) -> bool:
    """Tell whether a relation is made for sure: a listener may change its table's indexes."""
    return entry.name == entry.table or entry.table not in live_tables


def _is_alone(entry: Entry) -> bool:
    """Tell whether it is a type or a sequence, which tables may need."""
    return entry.made in (Made.TYPE, Made.RELATION) and not entry.table


def _is_compilable(listener: Any) -> bool:
    """Tell whether a listener makes do without a connection."""
    if isinstance(listener, ExecutableDDLElement):
        condition = listener._ddl_if
        return condition is None or condition.callable_ is None
    # SQLAlchemy's enums and domains listen with a bound method, wrapped in another way by
    # each SQLAlchemy.
    function = getattr(listener, "func", listener)
    owner = getattr(function, "__self__", None) or getattr(function, "target", None)
    return isinstance(owner, SchemaType)


def without_parameters(dialect: Dialect) -> Dialect:
    """Return a dialect that writes percent signs once, as a script needs them."""
    plain: Any = copy.copy(dialect)
    plain.paramstyle = "named"
    plain.identifier_preparer = plain.preparer(plain)
    plain.type_compiler = plain.type_compiler_instance = plain.type_compiler_cls(plain)
    # What writes literals is kept here, and remembers how percent signs are written.
    plain.__dict__.pop("_type_memos", None)
    return plain  # type: ignore[no-any-return]


def _classify(element: Any, dialect: Any) -> tuple[Made, str, str]:
    subject = _subject(element)
    table = _table_of(subject)
    owner = "" if table is None else table.name
    if isinstance(element, (CreateEnumType, CreateDomainType)):
        return Made.TYPE, str(subject.name), ""
    if isinstance(element, CreateIndex) and isinstance(subject, Index):
        quoted = str(dialect.identifier_preparer.format_index(subject))
        name = quoted.removeprefix('"').removesuffix('"').replace('""', '"')
        return Made.RELATION, name, owner
    if isinstance(element, CreateSequence):
        return Made.RELATION, str(subject.name), ""
    if table is None:
        return Made.WHOLE, "", ""
    is_table = isinstance(element, CreateTable) or element is getattr(table, "_creator_ddl", None)
    return (Made.RELATION if is_table else Made.PART), owner, owner


def _subject(element: Any) -> Any:
    """Return what a statement is about."""
    subject = getattr(element, "element", None)
    return getattr(element, "target", None) if subject is None else subject


def _table_of(subject: Any) -> Table | None:
    table = subject if isinstance(subject, Table) else getattr(subject, "table", None)
    return table if isinstance(table, Table) else None


def _schema_of(subject: Any) -> str | None:
    """Return the schema that the models give to something; a metadata's is a mere default."""
    if isinstance(subject, MetaData):
        return None
    table = _table_of(subject)
    schema: str | None = getattr(subject if table is None else table, "schema", None)
    return schema
