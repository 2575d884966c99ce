"""Adds a column to a table that has rows: nullable at first, filled, then as declared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
    literal_column,
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

#: What tells rows apart where nothing else has to; no table has columns of these names.
_KEYS: Final = ("onegov_key_0", "onegov_key_1")

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
        keys = (literal_column("tableoid", OID), literal_column("ctid", TupleId()))
        shown = [cast(key, Text).label(name) for key, name in zip(keys, _KEYS, strict=True)]
        statement = select(*shown, *self._present()).select_from(table(self._table.name))
        rows = self._connection.execute(statement, execution_options={"yield_per": _BATCH_SIZE})
        filled = (((row._mapping[_KEYS[0]], row._mapping[_KEYS[1]]), default(row)) for row in rows)
        self._write(keys, filled)

    def fill_objects(self, session: Session, model: Any, default: Callable[[Any], Any]) -> None:
        """Write into the row of each object of a class what the function returns for it."""
        keys = tuple(inspect(model).local_table.primary_key.columns)
        statement = select(model).execution_options(yield_per=_BATCH_SIZE)
        filled = ((inspect(each).identity, default(each)) for each in session.scalars(statement))
        self._write(tuple(column(key.name, key.type) for key in keys), filled)
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

    def _write(self, keys: Sequence[Any], filled: Iterable[Filled]) -> None:
        remaining = iter(filled)
        while batch := list(islice(remaining, _BATCH_SIZE)):
            self._write_batch(keys, batch)

    def _write_batch(self, keys: Sequence[Any], batch: Sequence[Filled]) -> None:
        kind = self._column.type
        names = [f"onegov_key_{number}" for number in range(len(keys))]
        types = [Text() if isinstance(key.type, (OID, TupleId)) else key.type for key in keys]
        data = values(
            *(column(name, type_) for name, type_ in zip(names, types, strict=True)),
            column("onegov_value", kind),
            name="data",
        ).data([(*key, value) for key, value in batch])
        # The server does not know the types of what stands in such a list.
        criteria = [
            key == cast(data.c[name], key.type) for key, name in zip(keys, names, strict=True)
        ]
        statement = update(self._table).values({self._column: cast(data.c.onegov_value, kind)})
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
