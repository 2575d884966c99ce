"""The SQL that asks for the customers and their sizes: catalogs only, each read once."""

from __future__ import annotations

from typing import Final

#: One row per schema that has a comment, or was asked for: its name, the comment, and whether
#: it has Alembic's table and that of the upgrade tasks.
CUSTOMERS: Final = """
    SELECT CAST(namespace.nspname AS text), described.description,
        EXISTS (SELECT FROM pg_catalog.pg_class AS relation
            WHERE relation.relname = 'alembic_version'
            AND relation.relnamespace = namespace.oid AND relation.relkind = 'r'),
        EXISTS (SELECT FROM pg_catalog.pg_class AS relation
            WHERE relation.relname = 'upgrades'
            AND relation.relnamespace = namespace.oid AND relation.relkind = 'r')
    FROM pg_catalog.pg_namespace AS namespace
    LEFT JOIN pg_catalog.pg_description AS described
        ON described.objoid = namespace.oid AND described.objsubid = 0
        AND described.classoid = CAST('pg_catalog.pg_namespace' AS regclass)
    WHERE (CAST(:prefix AS text) IS NULL OR starts_with(nspname, CAST(:prefix AS text)))
    AND CASE WHEN CAST(:names AS text[]) IS NULL THEN starts_with(description, 'onegov_orm ')
        ELSE nspname = ANY (CAST(:names AS text[])) END
    ORDER BY nspname COLLATE "C"
"""

#: One row per schema: its name, bytes on disk (indexes and large values included), number of
#: tables, and the estimated number of rows.
STATISTICS: Final = """
    SELECT CAST(namespace.nspname AS text),
        CAST(COALESCE(sum(pg_catalog.pg_total_relation_size(relation.oid)), 0) AS bigint),
        count(relation.oid),
        CAST(COALESCE(sum(GREATEST(relation.reltuples, 0)), 0) AS bigint)
    FROM pg_catalog.pg_namespace AS namespace
    LEFT JOIN pg_catalog.pg_class AS relation
        ON relation.relnamespace = namespace.oid AND relation.relkind IN ('r', 'm')
    WHERE namespace.nspname = ANY (CAST(:names AS text[]))
    GROUP BY namespace.nspname
"""
