"""What an upgrade task can ask of its schema, and change there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, select, text
from sqlalchemy.dialects.postgresql import ARRAY, ENUM, HSTORE, JSONB
from sqlalchemy.dialects.postgresql import UUID as UUID_TYPE
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm import SessionManager
from onegov_orm.errors import ConfigurationError, OrmError
from onegov_orm.fleet._context import FleetContext
from onegov_orm.upgrade import UpgradeContext, Upgrades
from tests.fleet.upgrading import module_of, task
from tests.models import Base, Color, Document, Person

SCHEMA = "towns-bern"


def contexts(mgr: SessionManager) -> Iterator[UpgradeContext]:
    with mgr.schema("towns-other") as session:
        session.execute(text("CREATE TABLE elsewhere (id integer CONSTRAINT far PRIMARY KEY)"))
        session.execute(text("CREATE TYPE mood AS ENUM ('fine')"))
    with mgr.schema(SCHEMA) as session:
        for number in range(3):
            session.add(
                Document(
                    owner=SCHEMA,
                    title=f"title {number}",
                    color=Color.RED,
                    content={"number": number},
                    tags={"a": str(number)},
                )
            )
    with FleetContext(mgr).connected(SCHEMA) as connection:
        transaction = connection.begin()
        yield UpgradeContext(mgr, connection, mgr.parse_schema(SCHEMA))
        transaction.rollback()


@pytest.fixture
def context(
    common_dsn: str, new_manager: Callable[..., SessionManager]
) -> Iterator[UpgradeContext]:
    yield from contexts(new_manager(common_dsn, Base, upgrades=[]))


@pytest.fixture
def any_context(dsn: str, new_manager: Callable[..., SessionManager]) -> Iterator[UpgradeContext]:
    """The same with each driver on each server."""
    yield from contexts(new_manager(dsn, Base, upgrades=[]))


def rows(context: UpgradeContext, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in context.connection.execute(text(sql))]


# -- looking


def test_tables_are_those_of_the_schema(context: UpgradeContext) -> None:
    assert context.has_table("documents")
    assert not context.has_table("elsewhere")
    assert not context.has_table("ix_documents_owner")
    assert not context.has_table("pg_class")


def test_columns_are_those_of_the_table(context: UpgradeContext) -> None:
    assert context.has_column("documents", "title")
    assert not context.has_column("documents", "Title")
    assert not context.has_column("documents", "ctid")
    assert not context.has_column("elsewhere", "id")
    rows_before = rows(context, "SELECT count(*) FROM documents")
    context.connection.execute(text("ALTER TABLE documents DROP COLUMN title"))
    assert not context.has_column("documents", "title")
    assert rows_before == [(3,)]


def test_enums_are_those_of_the_schema(context: UpgradeContext) -> None:
    assert context.has_enum("color")
    assert not context.has_enum("mood")
    assert not context.has_enum("documents")


def test_constraints_are_those_of_the_table(context: UpgradeContext) -> None:
    assert context.has_constraint("pages", "pages_pkey")
    assert context.has_constraint("pages", "pages_document_id_fkey")
    assert not context.has_constraint("documents", "pages_pkey")
    assert not context.has_constraint("elsewhere", "far")


def test_a_table_without_rows_is_empty(context: UpgradeContext) -> None:
    assert context.is_empty_table("pages")
    assert not context.is_empty_table("documents")


def test_pending_objects_count(context: UpgradeContext) -> None:
    context.session.add(Person(name="Ada"))
    assert not context.is_empty_table("persons")


def test_long_names_are_cut_as_the_server_cuts_them(context: UpgradeContext) -> None:
    name = "t" * 70
    context.connection.execute(text(f"CREATE TABLE {name} ({name} integer)"))
    assert context.has_table(name)
    assert context.has_column(name, name)


def test_odd_names_are_no_sql(context: UpgradeContext) -> None:
    for name in ('"; DROP TABLE documents; --', "a:b", "100%", "it's"):
        assert not context.has_table(name)
        quoted = name.replace('"', '""')
        context.connection.exec_driver_sql(
            f'CREATE TABLE "{quoted}" ("{quoted}" integer)',
            execution_options={"no_parameters": True},
        )
        assert context.has_column(name, name)
        assert context.is_empty_table(name)
        added = Column("x:y %z", sa.Text, nullable=False)
        assert context.add_column_with_defaults(name, added, lambda row: "?")
    assert context.has_table("documents")


# -- Alembic


def test_operations_are_alembics(context: UpgradeContext) -> None:
    operations = context.operations
    operations.add_column("documents", Column("size", sa.Integer))
    operations.create_index("ix_size", "documents", ["size"])
    assert context.has_column("documents", "size")
    assert context.operations is operations


def test_without_alembic_only_operations_fail(
    context: UpgradeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "alembic"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "alembic", None)
    with pytest.raises(ConfigurationError, match=r"onegov_orm\[migrations\]"):
        _ = context.operations
    assert context.add_column_with_defaults("documents", Column("size", sa.Integer), 1)
    assert context.update_enum_values("color", ["RED", "GREEN", "BLUE"])


# -- adding a column


def test_a_column_is_added_with_one_value(context: UpgradeContext) -> None:
    column = Column("size", sa.Integer, nullable=False, comment="in bytes")
    assert context.add_column_with_defaults("documents", column, 7)
    assert rows(context, "SELECT DISTINCT size FROM documents") == [(7,)]
    assert not context.add_column_with_defaults("documents", column, 8)
    with pytest.raises(DBAPIError, match="size"):
        context.connection.execute(text("INSERT INTO documents (owner) VALUES ('x')"))


def test_a_column_is_filled_by_an_expression(context: UpgradeContext) -> None:
    added = Column("shouted", sa.Text, nullable=False)
    context.add_column_with_defaults("documents", added, sa.func.upper(sa.column("title")))
    assert ("TITLE 1",) in rows(context, "SELECT shouted FROM documents")


def test_a_column_is_filled_row_by_row(any_context: UpgradeContext) -> None:
    """The row has the types of the models: JSON is a dictionary, an enum its member."""

    def describe(row: Any) -> str:
        return f"{row.title} {row.content['number']} {row.color.name} {row.tags['a']}"

    added = Column("described", sa.Text, nullable=False)
    any_context.add_column_with_defaults("documents", added, describe)
    assert rows(any_context, "SELECT described FROM documents ORDER BY id") == [
        (f"title {number} {number} RED {number}",) for number in range(3)
    ]


def test_a_table_that_no_model_knows_is_filled_row_by_row(context: UpgradeContext) -> None:
    execute = context.connection.execute
    execute(text("CREATE TABLE old (name text)"))
    execute(text("INSERT INTO old SELECT n::text FROM generate_series(1, 1234) AS n"))
    added = Column("twice", sa.Integer, nullable=False)
    context.add_column_with_defaults("old", added, lambda row: 2 * int(row.name))
    expected = [(1234, True)]
    assert rows(context, "SELECT count(*), bool_and(twice = name::int * 2) FROM old") == expected
    execute(text("ALTER TABLE old ADD COLUMN x integer"))


def test_partitions_are_filled_row_by_row(context: UpgradeContext) -> None:
    execute = context.connection.execute
    execute(text("CREATE TABLE halves (n integer) PARTITION BY RANGE (n)"))
    execute(text("CREATE TABLE low PARTITION OF halves FOR VALUES FROM (0) TO (10)"))
    execute(text("CREATE TABLE high PARTITION OF halves FOR VALUES FROM (10) TO (20)"))
    execute(text("INSERT INTO halves SELECT generate_series(0, 19)"))
    added = Column("m", sa.Integer, nullable=False)
    context.add_column_with_defaults("halves", added, lambda row: row.n + 1)
    assert rows(context, "SELECT count(*) FROM halves WHERE m = n + 1") == [(20,)]


def new_models() -> Any:
    """Models as they are after the upgrade, with columns that are not there yet."""

    class New(DeclarativeBase):
        pass

    class NewDocument(New):
        __tablename__ = "documents"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        slug: Mapped[str] = mapped_column(onupdate="changed")
        touched: Mapped[str] = mapped_column("owner", onupdate="touched")

        @property
        def shouted(self) -> str:
            return self.title.upper()

    return NewDocument


def test_a_column_is_filled_object_by_object(any_context: UpgradeContext) -> None:
    model = new_models()
    column = model.__table__.c.slug
    any_context.add_column_with_defaults(model, column, lambda each: each.shouted)
    assert rows(any_context, "SELECT slug, owner FROM documents ORDER BY id") == [
        (f"TITLE {number}", SCHEMA) for number in range(3)
    ]
    assert any_context.session.get_one(model, 1).slug == "TITLE 0"
    # The model's own column is left alone.
    assert column.table is model.__table__
    assert not column.nullable


KINDS: list[tuple[Any, Any]] = [
    (sa.Integer(), 3),
    (sa.Numeric(10, 2), None),
    (sa.Boolean(), True),
    (sa.LargeBinary(), b"\x00%"),
    (sa.Text(), "it's 100% :fine \\ "),
    (sa.DateTime(timezone=True), None),
    (JSONB(), {"a": ["%", ":b", None]}),
    (UUID_TYPE(), uuid4()),
    (ARRAY(sa.Text()), ["a", "b,c"]),
    (HSTORE(), {"a": "b", "c": None}),
    (sa.Enum(Color, name="color"), Color.GREEN),
    (ENUM("up", "down", name="direction"), "down"),
    (ARRAY(ENUM("x", "y", name="axis")), ["y"]),
]


@pytest.mark.parametrize("default", ["value", "row"])
def test_values_of_all_types_arrive(any_context: UpgradeContext, default: str) -> None:
    for number, (kind, value) in enumerate(KINDS):
        added: Column[Any] = Column(f"c{number}", kind)
        given: Any = value if default == "value" else lambda row, value=value: value
        any_context.add_column_with_defaults("documents", added, given)
        statement: Any = select(sa.column(added.name, kind)).select_from(sa.table("documents"))
        shown = any_context.connection.execute(statement)
        for (found,) in shown:
            assert found == value
            assert not isinstance(value, UUID) or isinstance(found, UUID)


def test_nulls_in_a_column_that_takes_none_are_the_servers_error(context: UpgradeContext) -> None:
    with pytest.raises(DBAPIError, match='column "size" of relation "documents" contains null'):
        context.add_column_with_defaults(
            "documents", Column("size", sa.Integer, nullable=False), lambda row: None
        )


def test_a_column_comes_with_its_constraints(context: UpgradeContext) -> None:
    first = rows(context, "SELECT min(id) FROM documents")[0][0]
    added: Column[Any] = Column("parent_id", ForeignKey("documents.id"), index=True)
    context.add_column_with_defaults("documents", added, first)
    assert context.has_constraint("documents", "documents_parent_id_fkey")
    assert rows(context, "SELECT to_regclass('ix_documents_parent_id') IS NOT NULL") == [(True,)]
    context.add_column_with_defaults(
        "documents", Column("code", sa.Integer, unique=True), lambda row: row.id
    )
    assert context.has_constraint("documents", "documents_code_key")


def test_constraints_have_the_names_of_the_models_convention(
    common_dsn: str, new_manager: Callable[..., SessionManager]
) -> None:
    class Named(DeclarativeBase):
        metadata = sa.MetaData(naming_convention={"uq": "unique_%(table_name)s_%(column_0_name)s"})

    class Thing(Named):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)

    mgr = new_manager(common_dsn, Named, upgrades=[])
    mgr.ensure_schema_exists(SCHEMA)
    with FleetContext(mgr).connected(SCHEMA) as connection, connection.begin():
        context = UpgradeContext(mgr, connection, mgr.parse_schema(SCHEMA))
        for table, name in (("things", "code"), (Thing, "other")):
            added = Column(name, sa.Integer, unique=True)
            context.add_column_with_defaults(table, added, 1)
            assert context.has_constraint("things", f"unique_things_{name}")


def test_a_part_of_the_primary_key_is_refused(context: UpgradeContext) -> None:
    with pytest.raises(ConfigurationError, match="primary key"):
        context.add_column_with_defaults("documents", Column("x", sa.Integer, primary_key=True), 1)


# -- enums


def values_of(context: UpgradeContext, name: str = "color") -> list[str]:
    return list(rows(context, f"SELECT enum_range(NULL::{name})::text[]")[0][0])


def test_a_new_value_can_be_used_at_once(any_context: UpgradeContext) -> None:
    assert any_context.update_enum_values("color", ["BLUE", "RED", "GREEN"])
    assert values_of(any_context) == ["BLUE", "RED", "GREEN"]
    any_context.connection.execute(text("UPDATE documents SET color = 'BLUE' WHERE id = 1"))
    assert rows(any_context, "SELECT color::text FROM documents ORDER BY color, id")[0] == (
        "BLUE",
    )
    assert not any_context.update_enum_values("color", ["BLUE", "RED", "GREEN"])


def test_values_that_nobody_uses_are_removed(context: UpgradeContext) -> None:
    assert context.update_enum_values("color", ["RED"])
    assert values_of(context) == ["RED"]
    assert rows(context, "SELECT DISTINCT color::text FROM documents") == [("RED",)]
    assert not rows(context, "SELECT 1 FROM pg_type WHERE typname LIKE 'color%old'")


def test_a_value_that_is_used_is_not_removed(context: UpgradeContext) -> None:
    context.connection.execute(text("CREATE TABLE boxes (colors color[])"))
    with pytest.raises(OrmError, match=r"can't lose RED: 3 rows of documents\.color"):
        context.update_enum_values("color", ["GREEN"])
    execute = context.connection.execute
    execute(text("UPDATE documents SET color = 'GREEN'"))
    execute(text("INSERT INTO boxes VALUES ('{GREEN,RED}')"))
    with pytest.raises(OrmError, match=r"1 rows of boxes\.colors"):
        context.update_enum_values("color", ["GREEN"])
    # The transaction goes on.
    execute(text("DELETE FROM boxes"))
    assert context.update_enum_values("color", ["GREEN"])


def test_arrays_defaults_and_partitions_come_along(any_context: UpgradeContext) -> None:
    execute = any_context.connection.execute
    execute(
        text(
            "CREATE TABLE boxes (n integer, colors color[] DEFAULT '{RED}' NOT NULL,"
            " color color DEFAULT 'GREEN') PARTITION BY RANGE (n)"
        )
    )
    execute(text("CREATE TABLE low PARTITION OF boxes FOR VALUES FROM (0) TO (10)"))
    execute(text("INSERT INTO boxes (n) VALUES (1)"))
    execute(text("CREATE INDEX by_color ON boxes (color)"))
    any_context.update_enum_values("color", ["GREEN", "it's %b :c", "RED"])
    execute(text("INSERT INTO boxes (n) VALUES (2)"))
    assert (
        rows(any_context, "SELECT colors::text[], color::text FROM boxes ORDER BY n")
        == [(["RED"], "GREEN")] * 2
    )
    assert rows(
        any_context,
        "SELECT DISTINCT atttypid::regtype::text FROM pg_attribute JOIN pg_class"
        " ON attrelid = pg_class.oid WHERE relname IN ('boxes', 'low') AND attname = 'color'",
    ) == [("color",)]


def test_an_index_on_one_value_is_explained(context: UpgradeContext) -> None:
    context.connection.execute(text("CREATE INDEX reds ON documents (id) WHERE color = 'RED'"))
    with pytest.raises(OrmError, match=r"an index or a constraint.*rewrite=False"):
        context.update_enum_values("color", ["RED", "GREEN", "BLUE"])


def test_without_rewriting_values_can_only_be_added(context: UpgradeContext) -> None:
    context.connection.execute(text("CREATE INDEX reds ON documents (id) WHERE color = 'RED'"))
    wanted = ["A", "B", "RED", "C", "GREEN", "D", "E"]
    assert context.update_enum_values("color", wanted, rewrite=False)
    assert values_of_catalog(context) == wanted
    for values in (["RED", "GREEN"], [*reversed(wanted)]):
        with pytest.raises(ConfigurationError, match="values can only be added"):
            context.update_enum_values("color", values, rewrite=False)


def values_of_catalog(context: UpgradeContext) -> list[str]:
    found = rows(
        context,
        "SELECT enumlabel FROM pg_enum WHERE enumtypid = 'color'::regtype ORDER BY enumsortorder",
    )
    return [label for (label,) in found]


@pytest.mark.parametrize("values", [[], ["A", "A"]])
def test_values_have_to_be_different_ones(context: UpgradeContext, values: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="different ones"):
        context.update_enum_values("color", values)


def test_an_unknown_enum_is_named(context: UpgradeContext) -> None:
    with pytest.raises(ConfigurationError, match='has no enum "mood"'):
        context.update_enum_values("mood", ["sad"])


def test_a_later_task_of_the_same_run_uses_a_new_value(
    common_dsn: str, new_manager: Callable[..., SessionManager]
) -> None:
    mgr = new_manager(common_dsn, Base, upgrades=[])
    mgr.ensure_schema_exists(SCHEMA)

    def add_value(context: UpgradeContext) -> None:
        context.update_enum_values("color", ["RED", "GREEN", "BLUE"])

    def use_value(context: UpgradeContext) -> None:
        context.connection.execute(
            text("INSERT INTO documents (owner, color) VALUES (current_schema(), 'BLUE')")
        )

    module = module_of("m", task("1", does=add_value), task("2", does=use_value))
    report = Upgrades(FleetContext(mgr), [module]).upgrade()
    assert report.is_ok, report
