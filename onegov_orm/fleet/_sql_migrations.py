"""The SQL around migrations: versions of many schemas at once, checks, locks, indexes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from onegov_orm import _sql

VERSION_TABLE: Final = "alembic_version"

#: What the error of a schema is about that has changed since its script was chosen.
MOVED: Final = "onegov_orm: another version"

#: One row: whether the schema has Alembic's table, and its comment.
STANDING: Final = """
    SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS relation
            WHERE relation.relname = 'alembic_version'
            AND relation.relnamespace = namespace.oid AND relation.relkind = 'r'),
        pg_catalog.obj_description(namespace.oid, 'pg_namespace')
    FROM pg_catalog.pg_namespace AS namespace WHERE nspname = CAST(:schema AS text)
"""

SESSION_LOCK: Final = "SELECT pg_catalog.pg_advisory_lock(:key)"
SESSION_UNLOCK: Final = "SELECT pg_catalog.pg_advisory_unlock(:key)"

#: The indexes of a schema that an interrupted concurrent build left behind. Those of partitioned
#: tables wait for their parts; what others build just now is left alone, and everything is if
#: the server does not tell this role who builds what.
INVALID_INDEXES: Final = """
    SELECT CAST(relation.relname AS text)
    FROM pg_catalog.pg_index AS index
    JOIN pg_catalog.pg_class AS relation ON relation.oid = index.indexrelid
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
    WHERE namespace.nspname = CAST(:schema AS text)
    AND NOT index.indisvalid AND relation.relkind = 'i'
    AND pg_catalog.pg_has_role(relation.relowner, 'USAGE')
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS backed
        WHERE backed.conindid = relation.oid)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index AS progress
        WHERE progress.datname = pg_catalog.current_database()
        AND (progress.relid IS NULL OR progress.relid = index.indrelid))
"""

#: The tables that live in a schema itself, and not in another one on the search path.
TABLES: Final = """
    SELECT CAST(relname AS text) FROM pg_catalog.pg_class AS relation
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
    WHERE namespace.nspname = CAST(:schema AS text) AND relation.relkind IN ('r', 'p', 'v', 'm')
"""


def versions_of(schemas: Iterable[str]) -> str:
    """Ask for the versions of many schemas at once: rows of a schema and a revision."""
    # All parts are quoted below.
    return " UNION ALL ".join(
        f"SELECT CAST({_sql.quote_literal(schema)} AS text), version_num FROM {_versions(schema)}"
        for schema in schemas
    )


def create_versions(schema: str) -> str:
    """Create Alembic's table as Alembic does."""
    return (
        f"CREATE TABLE IF NOT EXISTS {_versions(schema)} (version_num VARCHAR(32) NOT NULL, "
        "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )


def lock(key: int) -> str:
    """Wait for an advisory lock, and hold it to the transaction's end."""
    return f"SELECT pg_catalog.pg_advisory_xact_lock({key:d})"


def require_standing(schema: str, versions: Sequence[str], comment: str | None) -> str:
    """Fail on the server unless the schema is at these versions, and has this comment."""
    wanted = ", ".join(_sql.quote_literal(version) for version in sorted(versions))
    described = (
        "pg_catalog.obj_description(CAST("
        f"{_sql.quote_literal(_sql.quote_identifier(schema))} AS pg_catalog.regnamespace), "
        "'pg_namespace')"
    )
    text = "CAST(NULL AS text)" if comment is None else _sql.quote_literal(comment)
    # What is in the other branch must not be known beforehand, or it would always fail.
    return (
        "SELECT CAST(CASE WHEN ARRAY(SELECT CAST(version_num AS text) FROM "
        f'{_versions(schema)} ORDER BY version_num COLLATE "C") = CAST(ARRAY[{wanted}] AS text[]) '
        f"AND {described} IS NOT DISTINCT FROM {text} THEN '0' "
        f"ELSE {_sql.quote_literal(MOVED)} END AS pg_catalog.int4)"
    )


def change_versions(schema: str, gone: Iterable[str], come: Iterable[str]) -> list[str]:
    """Take revisions out of Alembic's table, and put others in."""
    table = _versions(schema)
    deleted = ", ".join(_sql.quote_literal(version) for version in sorted(gone))
    inserted = ", ".join(f"({_sql.quote_literal(version)})" for version in sorted(come))
    statements = []
    if deleted:
        statements.append(f"DELETE FROM {table} WHERE version_num IN ({deleted})")
    if inserted:
        statements.append(f"INSERT INTO {table} (version_num) VALUES {inserted}")
    return statements


def drop_index_concurrently(schema: str, index: str) -> str:
    """Drop an index without keeping others from its table."""
    name = f"{_sql.quote_identifier(schema)}.{_sql.quote_identifier(index)}"
    return f"DROP INDEX CONCURRENTLY IF EXISTS {name}"


def drop_schema(schema: str) -> str:
    """Drop a schema with all that is in it."""
    return f"DROP SCHEMA IF EXISTS {_sql.quote_identifier(schema)} CASCADE"


def _versions(schema: str) -> str:
    return f"{_sql.quote_identifier(schema)}.{_sql.quote_identifier(VERSION_TABLE)}"
