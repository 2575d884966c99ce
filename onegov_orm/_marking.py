"""Reads and writes the marks of schemas, and takes spares into service."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import text

from onegov_orm import _sql
from onegov_orm._ddl import run_script
from onegov_orm.errors import ForeignSchema, SchemaNotFound, SchemaSuspended
from onegov_orm.marks import Mark, State

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


def read_mark(connection: Connection, schema: str) -> Mark:
    """Return the mark of a schema; raises `SchemaNotFound` and `ForeignSchema`."""
    mark = find_mark(connection, schema)
    if mark is None:
        raise ForeignSchema(schema)
    return mark


def read_comment(connection: Connection, schema: str) -> str:
    """Return the comment of a schema, whosever it is; raises `SchemaNotFound`."""
    row = connection.execute(text(_sql.SCHEMA_COMMENT), {"schema": schema}).first()
    if row is None:
        raise SchemaNotFound(schema)
    return row[0] or ""


def find_mark(connection: Connection, schema: str) -> Mark | None:
    """Return the mark of a schema, None for a foreign one; raises `SchemaNotFound`."""
    return Mark.parse(read_comment(connection, schema))


def write_mark(connection: Connection, schema: str, mark: Mark) -> None:
    """Set the mark of a schema."""
    run_script(connection, [_sql.comment_on_schema(schema, mark.comment)])


def refuse_suspended(schema: str, mark: Mark | None) -> None:
    """Raise `SchemaSuspended` for a customer whose sessions are refused."""
    if mark is not None and mark.state is State.SUSPENDED:
        raise SchemaSuspended(schema)


def mark_as_new(connection: Connection, schema: str) -> None:
    """Mark a schema that has just been made."""
    write_mark(connection, schema, Mark.new())


def mark_as_filled(connection: Connection, schema: str, comment: str | None) -> None:
    """Mark a schema that others made, and that has just got its tables.

    What was its comment becomes the note. Only its owner can do that; somebody else's stays
    unmarked, and is no part of the fleet until its owner adopts it.
    """
    if Mark.parse(comment) is not None:
        return
    if connection.execute(text(_sql.OWNS_SCHEMA), {"schema": schema}).scalar():
        write_mark(connection, schema, Mark.new(note=comment or ""))


def spares(connection: Connection) -> dict[str, Mark]:
    """Return the spare schemas that this role can rename, and their marks."""
    rows = connection.execute(text(_sql.SPARES))
    found = {str(name): Mark.parse(comment) for name, comment in rows}
    return {name: mark for name, mark in found.items() if mark is not None}


def take_spare(connection: Connection, schema: str, make: Callable[[], str]) -> bool:
    """Turn a spare of the right make into this schema; tell whether there was one.

    ``make`` returns what it has to be made of, and is called if there are any.
    """
    found = spares(connection)
    made_of = make() if found else ""
    for name, mark in found.items():
        if mark.made_of == made_of and _is_free(connection, name):
            statements = [
                _sql.rename_schema(name, schema),
                _sql.comment_on_schema(schema, Mark.new().comment),
            ]
            run_script(connection, statements)
            return True
    return False


def _is_free(connection: Connection, spare: str) -> bool:
    """Tell whether nobody else is taking the spare, or has just taken it."""
    # In two steps: only what is asked after the lock sees what its last holder has done.
    if not connection.execute(text(_sql.TRY_LOCK), {"name": spare}).scalar():
        return False
    return bool(connection.execute(text(_sql.SCHEMA_EXISTS), {"schema": spare}).scalar())
