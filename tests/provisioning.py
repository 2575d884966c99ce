"""What the tests of provisioning have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, MetaData, Table, event
from sqlalchemy.orm import DeclarativeBase

Parts = tuple[Any, ...]


def base_of(*tables: Parts, schema: str | None = None) -> Any:
    """Return a base; each table is a name and what is in it besides the id."""
    metadata = MetaData()
    for name, *parts in tables:
        add_table(metadata, name, *parts, schema=schema)
    return type("OwnBase", (DeclarativeBase,), {"metadata": metadata})


def add_table(metadata: MetaData, name: str, *parts: Any, schema: str | None = None) -> Table:
    """Add a table with an id."""
    return Table(name, metadata, Column("id", sa.Integer, primary_key=True), *parts, schema=schema)


@contextmanager
def statements_of(mgr: Any) -> Iterator[list[str]]:
    """Collect what the manager's engine sends."""
    sent: list[str] = []

    def before_cursor_execute(connection: Any, cursor: Any, statement: str, *args: Any) -> None:
        sent.append(statement)

    event.listen(mgr.engine, "before_cursor_execute", before_cursor_execute)
    yield sent
    event.remove(mgr.engine, "before_cursor_execute", before_cursor_execute)


def relations(execute: Callable[[str], Any], schema: str = "a") -> list[str]:
    """Return the names of tables, views, indexes and sequences in a schema."""
    rows = execute(
        f"SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace('{schema}')"
        " ORDER BY 1"
    )
    return [name for (name,) in rows]


def has_schema(execute: Callable[[str], Any], schema: str = "a") -> bool:
    """Tell whether a schema exists."""
    return bool(execute(f"SELECT to_regnamespace('{schema}') IS NOT NULL")[0][0])


def drop_schemas(execute: Callable[[str], Any]) -> None:
    """Bring a database back to what a new one has."""
    execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    rows = execute(
        "SELECT format('DROP SCHEMA %I CASCADE', nspname) FROM pg_namespace"
        " WHERE nspname NOT LIKE 'pg\\_%'"
        " AND nspname NOT IN ('information_schema', 'public', 'extensions')"
        " UNION ALL SELECT format('DROP TABLE %s CASCADE', oid::regclass) FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace::regnamespace::text IN ('public', 'extensions')"
        " UNION ALL SELECT format('DROP TYPE %s CASCADE', oid::regtype) FROM pg_type"
        " WHERE typtype = 'e' AND typnamespace::regnamespace::text IN ('public', 'extensions')"
    )
    for (sql,) in rows:
        execute(sql)
