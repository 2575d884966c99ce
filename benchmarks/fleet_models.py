"""The application whose fleet is measured: twenty tables, which grew in twenty revisions.

It is told once, as plain values. What SQLAlchemy, Alembic and Django have is written from it, so
that each of them makes the same tables, columns, keys and indexes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
)
from sqlalchemy.orm import DeclarativeBase

#: How many revisions the application has, each of which adds a table.
REVISIONS: Final = 20

#: The tables that the newest revision adds a column and an index to.
CHANGED_TABLES: Final = (3, 7)

#: Each second revision also adds a column to the table of the one before.
_EACH_SECOND: Final = 2

ADDED_COLUMN: Final = "remark"
NEW_COLUMN: Final = "reference"

#: The columns that all tables have: name, type for SQLAlchemy, whether it may be empty.
_COLUMNS: Final = (
    ("name", "String(100)", False),
    ("created", "DateTime(timezone=True)", False),
    ("amount", "Numeric(10, 2)", True),
    ("is_public", "Boolean()", False),
)

_TYPES: Final[dict[str, Any]] = {
    "String(100)": String(100),
    "String(40)": String(40),
    "DateTime(timezone=True)": DateTime(timezone=True),
    "Numeric(10, 2)": Numeric(10, 2),
    "Boolean()": Boolean(),
}

_DJANGO_FIELDS: Final = {
    "String(100)": "models.CharField(max_length=100)",
    "String(40)": "models.CharField(max_length=40, null=True)",
    "DateTime(timezone=True)": "models.DateTimeField()",
    "Numeric(10, 2)": "models.DecimalField(max_digits=10, decimal_places=2, null=True)",
    "Boolean()": "models.BooleanField()",
}


@dataclass(frozen=True)
class NewTable:
    """A table that a revision makes; from the second on it refers to the one before."""

    number: int

    @property
    def name(self) -> str:
        """The name of the table."""
        return table_name(self.number)

    @property
    def parent(self) -> str | None:
        """The name of the table it refers to."""
        return table_name(self.number - 1) if self.number > 1 else None


@dataclass(frozen=True)
class NewColumn:
    """A column that a revision adds to a table, with an index if it is looked up by it."""

    table: str
    name: str
    is_indexed: bool = False


Change = NewTable | NewColumn


def table_name(number: int) -> str:
    """Return the name of a table."""
    return f"records_{number:02}"


def revision_name(number: int) -> str:
    """Return the name of a revision."""
    return f"{number:04}"


def index_name(table: str, column: str) -> str:
    """Return the name of an index; Django allows thirty characters."""
    return f"ix_{table}_{column}"


def changes_of(number: int) -> list[Change]:
    """Return what a revision does; the one after the last is the new one."""
    if number > REVISIONS:
        return [
            NewColumn(table_name(table), NEW_COLUMN, is_indexed=True) for table in CHANGED_TABLES
        ]
    changes: list[Change] = [NewTable(number)]
    if not number % _EACH_SECOND:
        changes.append(NewColumn(table_name(number - 1), ADDED_COLUMN))
    return changes


def all_changes(revisions: int = REVISIONS) -> Iterator[Change]:
    """Yield what the revisions do, from the first to the given one."""
    for number in range(1, revisions + 1):
        yield from changes_of(number)


def base_of(revisions: int = REVISIONS) -> type[DeclarativeBase]:
    """Return the models, as they are after so many revisions."""
    metadata = MetaData()
    for change in all_changes(revisions):
        if isinstance(change, NewTable):
            _add_table(metadata, change)
        else:
            _add_column(metadata, change)
    return type("FleetBase", (DeclarativeBase,), {"metadata": metadata})


def _add_table(metadata: MetaData, change: NewTable) -> None:
    columns = [Column("id", Integer, Identity(), primary_key=True)]
    columns += [Column(name, _TYPES[kind], nullable=null) for name, kind, null in _COLUMNS]
    if change.parent:
        columns.append(Column("parent_id", ForeignKey(f"{change.parent}.id"), nullable=False))
    table = Table(change.name, metadata, *columns)
    for column in _indexed(change):
        Index(index_name(change.name, column), table.c[column])


def _add_column(metadata: MetaData, change: NewColumn) -> None:
    table = metadata.tables[change.table]
    column: Column[str] = Column(change.name, _TYPES["String(40)"])
    table.append_column(column)
    if change.is_indexed:
        Index(index_name(change.table, change.name), column)


def _indexed(change: NewTable) -> list[str]:
    return ["name", "created"] + ["parent_id"] * (change.parent is not None)


# -- Alembic


def alembic_revision(number: int) -> str:
    """Return the text of a revision's file for Alembic."""
    before = repr(revision_name(number - 1)) if number > 1 else "None"
    body = [line for change in changes_of(number) for line in _alembic_lines(change)]
    return "\n".join(
        [
            f'"""Revision {number} of the application."""',
            "",
            "import sqlalchemy as sa",
            "from alembic import op",
            "",
            f"revision = {revision_name(number)!r}",
            f"down_revision = {before}",
            "",
            "",
            "def upgrade():",
            *(f"    {line}" for line in body),
            "",
        ]
    )


def _alembic_lines(change: Change) -> Iterator[str]:
    if isinstance(change, NewColumn):
        column = f"sa.Column({change.name!r}, sa.String(40))"
        yield f"op.add_column({change.table!r}, {column})"
        if change.is_indexed:
            yield _alembic_index(change.table, change.name)
        return
    yield "op.create_table("
    yield f"    {change.name!r},"
    yield "    sa.Column('id', sa.Integer(), sa.Identity(), primary_key=True),"
    for name, kind, is_nullable in _COLUMNS:
        yield f"    sa.Column({name!r}, sa.{kind}, nullable={is_nullable}),"
    if change.parent:
        key = f"sa.ForeignKey('{change.parent}.id')"
        yield f"    sa.Column('parent_id', sa.Integer(), {key}, nullable=False),"
    yield ")"
    for column in _indexed(change):
        yield _alembic_index(change.name, column)


def _alembic_index(table: str, column: str) -> str:
    return f"op.create_index({index_name(table, column)!r}, {table!r}, [{column!r}])"


# -- Django


def django_migration(number: int) -> str:
    """Return the text of a migration's file for Django."""
    before = f"('records', {revision_name(number - 1)!r})" if number > 1 else ""
    body = [line for change in changes_of(number) for line in _django_lines(change)]
    return "\n".join(
        [
            "from django.db import migrations, models",
            "",
            "",
            "class Migration(migrations.Migration):",
            f"    dependencies = [{before}]",
            "    operations = [",
            *(f"        {line}" for line in body),
            "    ]",
            "",
        ]
    )


def django_models(revisions: int) -> str:
    """Return the text of Django's models, as they are after so many revisions."""
    classes: dict[str, tuple[list[str], list[str]]] = {}
    for change in all_changes(revisions):
        if isinstance(change, NewTable):
            classes[change.name] = (
                [f"{name} = {field}" for name, field in _django_fields(change)],
                _django_indexes(change),
            )
            continue
        fields, indexes = classes[change.table]
        fields.append(f"{change.name} = {_DJANGO_FIELDS['String(40)']}")
        indexes += [_django_index(change.table, change.name)] * change.is_indexed
    lines = ["from django.db import models"]
    for table, (fields, indexes) in classes.items():
        lines += ["", "", f"class {_model(table)}(models.Model):"]
        lines += [f"    {line}" for line in fields]
        lines += ["", "    class Meta:", f"        db_table = {table!r}"]
        lines.append(f"        indexes = [{', '.join(indexes)}]")
    return "\n".join([*lines, ""])


def _django_lines(change: Change) -> Iterator[str]:
    if isinstance(change, NewColumn):
        field = _DJANGO_FIELDS["String(40)"]
        model = _model(change.table)
        yield f"migrations.AddField({model!r}, {change.name!r}, {field}),"
        if change.is_indexed:
            index = _django_index(change.table, change.name)
            yield f"migrations.AddIndex({model!r}, {index}),"
        return
    yield f"migrations.CreateModel({_model(change.name)!r}, ["
    yield "    ('id', models.AutoField(primary_key=True, auto_created=True, serialize=False,"
    yield "        verbose_name='ID')),"
    for name, field in _django_fields(change):
        yield f"    ({name!r}, {field}),"
    indexes = ", ".join(_django_indexes(change))
    yield f"], options={{'db_table': {change.name!r}, 'indexes': [{indexes}]}}),"


def _django_fields(change: NewTable) -> Iterator[tuple[str, str]]:
    for name, kind, _ in _COLUMNS:
        yield name, _DJANGO_FIELDS[kind]
    if change.parent:
        # The index is among the others, under the same name as theirs.
        options = "models.CASCADE, db_index=False"
        yield "parent", f"models.ForeignKey('records.{_model(change.parent)}', {options})"


def _django_indexes(change: NewTable) -> list[str]:
    return [_django_index(change.name, column) for column in _indexed(change)]


def _django_index(table: str, column: str) -> str:
    field = column.removesuffix("_id")
    return f"models.Index(fields=[{field!r}], name={index_name(table, column)!r})"


def _model(table: str) -> str:
    return table.replace("_", "").capitalize()
