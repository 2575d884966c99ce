"""Adds a column to a table that has rows: nullable at first, filled, then as declared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    Column,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    cast,
    column,
    inspect,
    select,
    table,
    text,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import OID
from sqlalchemy.dialects.postgresql.named_types import NamedType
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import AddConstraint, CreateIndex, ExecutableDDLElement, SetColumnComment
from sqlalchemy.types import NullType, UserDefinedType

from onegov_orm._ddl import run_script
from onegov_orm.errors import ConfigurationError
from onegov_orm.fleet import _sql_upgrades

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session

#: How many rows are written with one statement.
_BATCH_SIZE: Final = 500

#: The names and types of the columns that tell rows apart.
Keys = Mapping[str, Any]

#: The values of those columns in one row, and what is to be written there.
Filled = tuple[tuple[Any, ...], Any]


class AddColumn(ExecutableDDLElement):
    """``ALTER TABLE ... ADD COLUMN``, without constraints of the column's own."""

    inherit_cache = False

    def __init__(self, added: Column[Any]) -> None:
        self.column = added


@compiles(AddColumn)
def _compile_add_column(element: AddColumn, compiler: Any, **_options: Any) -> str:
    specification = compiler.get_column_specification(element.column)
    return _sql_upgrades.add_column(
        compiler.preparer.format_table(element.column.table), specification
    )


class TupleId(UserDefinedType[str]):
    """The place of a row in its table, which every row has."""

    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        """Return the server's name of the type."""
        return "tid"


#: What tells the rows of any table apart: the partition, and the place in it.
_HIDDEN: Final[Keys] = {"tableoid": OID(), "ctid": TupleId()}


class ColumnAddition:
    """Adds one column to one table; both are copies that no model knows about."""

    def __init__(
        self,
        connection: Connection,
        schema: str,
        name: str,
        added: Column[Any],
        metadata: MetaData,
    ) -> None:
        if added.primary_key:
            raise ConfigurationError(f"{added.name} can't be added as a part of the primary key")
        self._connection = connection
        self._schema = schema
        self._column: Column[Any] = added._copy()
        own = MetaData(naming_convention=metadata.naming_convention)
        self._table = Table(name, own, self._column)
        self._is_nullable = bool(self._column.nullable)
        self._column.nullable = True
        self._model_table = metadata.tables.get(name)
        for key in self._column.foreign_keys:
            _stand_in(own, metadata, str(key.target_fullname))

    def add(self) -> None:
        """Add the column, and the enum that it may need."""
        kind = _named_type_of(self._column, self._connection.dialect)
        if kind is not None:
            kind.create(self._connection, checkfirst=True)
        self._connection.execute(AddColumn(self._column))

    def fill(self, value: Any) -> None:
        """Write one value, or what an SQL expression yields, into all rows."""
        self._connection.execute(update(self._table).values({self._column: value}))

    def fill_rows(self, default: Callable[[Any], Any]) -> None:
        """Write into each row what the function returns for it.

        The row's values are those of the models' types, where a model has such a column.
        """
        hidden = [column(name, kind) for name, kind in _HIDDEN.items()]
        source = table(self._table.name, *hidden, *self._present(), schema=self._schema)
        keys = [cast(each, Text).label(f"hidden {each.name}") for each in hidden]
        statement = select(*keys, *source.columns.values()[len(keys) :])
        options = {"yield_per": _BATCH_SIZE}
        # Closed at once if the function fails: the cursor is one on the server.
        with self._connection.execute(statement, execution_options=options) as rows:
            filled = ((tuple(row._mapping[key] for key in keys), default(row)) for row in rows)
            self._write(_HIDDEN, filled)

    def fill_objects(self, session: Session, model: Any, default: Callable[[Any], Any]) -> None:
        """Write into the row of each object of a class what the function returns for it."""
        keys = inspect(model).local_table.primary_key.columns
        statement = select(model).execution_options(yield_per=_BATCH_SIZE)
        with closing(session.scalars(statement)) as objects:
            filled = ((inspect(each).identity, default(each)) for each in objects)
            self._write({key.name: key.type for key in keys}, filled)
        session.expire_all()

    def finish(self) -> None:
        """Make the column what it was declared to be."""
        if not self._is_nullable:
            sql = _sql_upgrades.set_not_null(self._schema, self._table.name, self._column.name)
            run_script(self._connection, [sql])
        dialect: Any = self._connection.dialect
        compiler = dialect.ddl_compiler(dialect, None)
        for constraint in self._table.constraints:
            rule: Any = constraint._create_rule
            is_wanted = rule is None or rule(compiler)
            if is_wanted and not isinstance(constraint, PrimaryKeyConstraint):
                self._connection.execute(AddConstraint(constraint))
        for index in self._table.indexes:
            self._connection.execute(CreateIndex(index))
        if self._column.comment:
            self._connection.execute(SetColumnComment(self._column))

    def _present(self) -> list[Any]:
        """Return the columns that the table has by now."""
        columns = () if self._model_table is None else self._model_table.columns
        known = {each.name: each for each in columns}
        parameters = {"schema": self._schema, "table": self._table.name}
        names = self._connection.execute(text(_sql_upgrades.COLUMNS), parameters).scalars()
        return [
            column(name, known[name].type) if name in known else column(name) for name in names
        ]

    def _write(self, keys: Keys, filled: Iterable[Filled]) -> None:
        remaining = iter(filled)
        while batch := list(islice(remaining, _BATCH_SIZE)):
            self._write_batch(keys, batch)

    def _write_batch(self, keys: Keys, batch: Sequence[Filled]) -> None:
        added = column(self._column.name, self._column.type)
        columns = [column(name, kind) for name, kind in keys.items()]
        target = table(self._table.name, *columns, added, schema=self._schema)
        data = values(
            *(
                # Hidden columns travel as texts.
                column(f"key_{number}", Text() if keys is _HIDDEN else key.type)
                for number, key in enumerate(columns)
            ),
            column("value", added.type),
            name="data",
        ).data([(*key, value) for key, value in batch])
        # The server does not know the types of what stands in such a list.
        criteria = [
            key == cast(data.c[f"key_{number}"], key.type) for number, key in enumerate(columns)
        ]
        statement = update(target).values({added: cast(data.c.value, added.type)})
        self._connection.execute(statement.where(*criteria))


def _named_type_of(added: Column[Any], dialect: Any) -> NamedType | None:
    """Return the enum or domain that the column's type makes on the server."""
    kind: Any = added.type._unwrapped_dialect_impl(dialect)
    kind = getattr(kind, "item_type", kind).dialect_impl(dialect)
    return kind if isinstance(kind, NamedType) and kind.create_type else None


def _stand_in(own: MetaData, metadata: MetaData, target: str) -> None:
    """Have a column that a foreign key can refer to, with the type that the models know."""
    fullname, _, name = target.rpartition(".")
    schema, _, table_name = fullname.rpartition(".")
    known = metadata.tables.get(fullname)
    type_: Any = known.c[name].type if known is not None and name in known.c else NullType()
    stand_in = own.tables.get(fullname)
    if stand_in is None or name not in stand_in.c:
        Table(table_name, own, Column(name, type_), schema=schema or None, extend_existing=True)
