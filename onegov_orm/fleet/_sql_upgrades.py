"""The SQL of upgrade tasks: what is pending, what a schema has, how it is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from onegov_orm._sql import quote_identifier, quote_literal, set_local

#: Names are cast to the server's type of names, which cuts them as the server does.
HAS_TABLE: Final = """
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_class AS relation
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
        WHERE relation.relname = CAST(:name AS name) AND namespace.nspname = CAST(:schema AS name)
        AND relation.relkind IN ('r', 'p', 'f'))
"""

HAS_COLUMN: Final = """
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_class AS relation
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
        JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = relation.oid
        WHERE relation.relname = CAST(:table AS name)
        AND namespace.nspname = CAST(:schema AS name)
        AND attribute.attname = CAST(:name AS name)
        AND attribute.attnum > 0 AND NOT attribute.attisdropped)
"""

#: The columns of a table, in their order.
COLUMNS: Final = """
    SELECT CAST(attribute.attname AS text)
    FROM pg_catalog.pg_class AS relation
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
    JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = relation.oid
    WHERE relation.relname = CAST(:table AS name) AND namespace.nspname = CAST(:schema AS name)
    AND attribute.attnum > 0 AND NOT attribute.attisdropped
    ORDER BY attribute.attnum
"""

HAS_CONSTRAINT: Final = """
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_class AS relation
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
        JOIN pg_catalog.pg_constraint AS fact ON fact.conrelid = relation.oid
        WHERE relation.relname = CAST(:table AS name)
        AND namespace.nspname = CAST(:schema AS name)
        AND fact.conname = CAST(:name AS name))
"""

#: One row, if the enum exists: its values in their order.
ENUM_VALUES: Final = """
    SELECT ARRAY(
        SELECT CAST(enumlabel AS text) FROM pg_catalog.pg_enum
        WHERE enumtypid = kind.oid ORDER BY enumsortorder)
    FROM pg_catalog.pg_type AS kind
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = kind.typnamespace
    WHERE kind.typname = CAST(:name AS name) AND namespace.nspname = CAST(:schema AS name)
    AND kind.typtype = 'e'
"""

#: One row per column of an enum, or of arrays of it: schema, table, column, whether it is an
#: array, and its default. Asked by way of what depends on the type, for which there is an index.
ENUM_COLUMNS: Final = """
    SELECT CAST(home.nspname AS text), CAST(relation.relname AS text),
        CAST(attribute.attname AS text), attribute.atttypid = kind.typarray,
        pg_catalog.pg_get_expr(ground.adbin, ground.adrelid)
    FROM pg_catalog.pg_type AS kind
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = kind.typnamespace
    JOIN pg_catalog.pg_depend AS dependency
        ON dependency.refclassid = CAST('pg_catalog.pg_type' AS regclass)
        AND dependency.refobjid IN (kind.oid, kind.typarray)
        AND dependency.classid = CAST('pg_catalog.pg_class' AS regclass)
    JOIN pg_catalog.pg_class AS relation ON relation.oid = dependency.objid
    JOIN pg_catalog.pg_namespace AS home ON home.oid = relation.relnamespace
    JOIN pg_catalog.pg_attribute AS attribute
        ON attribute.attrelid = dependency.objid AND attribute.attnum = dependency.objsubid
        AND attribute.atttypid IN (kind.oid, kind.typarray)
    LEFT JOIN pg_catalog.pg_attrdef AS ground
        ON ground.adrelid = attribute.attrelid AND ground.adnum = attribute.attnum
        AND attribute.attgenerated = ''
    WHERE kind.typname = CAST(:name AS name) AND namespace.nspname = CAST(:schema AS name)
    AND kind.typtype = 'e' AND relation.relkind IN ('r', 'p', 'f') AND attribute.attnum > 0
    AND attribute.attinhcount = 0 AND NOT attribute.attisdropped
    ORDER BY 1, 2, attribute.attnum
"""

#: Have the server check what it would check at the commit only, and wait again from then on.
CHECK_CONSTRAINTS: Final = "SET CONSTRAINTS ALL IMMEDIATE"
DEFER_CONSTRAINTS: Final = "SET CONSTRAINTS ALL DEFERRED"


#: The server overestimates the question about all schemas: it would compile it, or start
#: processes that share the work, which takes longer than the answer.
PENDING_SETTINGS: Final = (
    set_local("jit", "off"),
    set_local("max_parallel_workers_per_gather", "0"),
)


def pending(schemas: Sequence[str]) -> str:
    """Ask which tasks are lacking in which schemas, of those that have the table.

    One row per schema and module that has something recorded: the schema's place in the list,
    the module, and the names of its tasks that are lacking. The parameter ``wanted`` is JSON: by
    module, an object that has the names of the tasks as its keys.
    """
    states = "\nUNION ALL ".join(
        f"SELECT {number}, module, executed_tasks FROM {_quoted(schema)}.upgrades"
        for number, schema in enumerate(schemas)
    )
    return f"""
        SELECT state.number, state.module, ARRAY(
            SELECT jsonb_object_keys(
                (CAST(:wanted AS jsonb) -> state.module)
                - ARRAY(SELECT jsonb_object_keys(state.executed_tasks))))
        FROM ({states}) AS state (number, module, executed_tasks)
        WHERE CAST(:wanted AS jsonb) ? state.module
    """


def add_column(table: str, specification: str) -> str:
    """Add a column to a table; both texts are SQLAlchemy's."""
    return f"ALTER TABLE {table} ADD COLUMN {specification}"


def set_not_null(schema: str, table: str, column: str) -> str:
    """Refuse nulls in a column."""
    return f"{_alter_column(schema, table, column)} SET NOT NULL"


def drop_default(schema: str, table: str, column: str) -> str:
    """Leave a column without a default."""
    return f"{_alter_column(schema, table, column)} DROP DEFAULT"


def set_default(schema: str, table: str, column: str, expression: str) -> str:
    """Give a column a default; the expression is the server's own."""
    return f"{_alter_column(schema, table, column)} SET DEFAULT {expression}"


def set_enum_type(schema: str, table: str, column: str, kind: str, is_array: bool) -> str:
    """Change the type of a column to an enum, or to arrays of it, by way of texts."""
    suffix = "[]" if is_array else ""
    name = f"{kind}{suffix}"
    using = f"CAST(CAST({quote_identifier(column)} AS text{suffix}) AS {name})"
    return f"{_alter_column(schema, table, column)} TYPE {name} USING {using}"


def create_enum(kind: str, values: Sequence[str]) -> str:
    """Create an enum; `enum_name` makes its name."""
    return f"CREATE TYPE {kind} AS ENUM ({', '.join(map(quote_literal, values))})"


def rename_enum(kind: str, name: str) -> str:
    """Give an enum another name in its schema."""
    return f"ALTER TYPE {kind} RENAME TO {quote_identifier(name)}"


def drop_enum(kind: str) -> str:
    """Drop an enum that nothing uses."""
    return f"DROP TYPE {kind}"


def add_enum_value(kind: str, value: str, before: str | None) -> str:
    """Add a value to an enum, before another one or at the end."""
    place = "" if before is None else f" BEFORE {quote_literal(before)}"
    return f"ALTER TYPE {kind} ADD VALUE {quote_literal(value)}{place}"


def enum_name(schema: str, name: str) -> str:
    """Return the name of an enum with its schema."""
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"


def _alter_column(schema: str, table: str, column: str) -> str:
    target = f"{quote_identifier(schema)}.{quote_identifier(table)}"
    return f"ALTER TABLE {target} ALTER COLUMN {quote_identifier(column)}"


def _quoted(schema: str) -> str:
    """Return a quoted name for a text with parameters, which begin with a colon."""
    return quote_identifier(schema).replace(":", "\\:")
