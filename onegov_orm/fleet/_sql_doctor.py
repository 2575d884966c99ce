"""The questions of the doctor to the server: catalogs and settings, nothing of a customer."""

from __future__ import annotations

from typing import Final

from onegov_orm import _sql

ONE: Final = "SELECT 1"
BACKEND: Final = "SELECT pg_catalog.pg_backend_pid()"

#: One row: the version, whether this is a standby, whether transactions may write, and the
#: server's clock in seconds.
SERVER: Final = """
    SELECT CAST(pg_catalog.current_setting('server_version_num') AS integer),
        pg_catalog.pg_is_in_recovery(),
        pg_catalog.current_setting('transaction_read_only') = 'off',
        CAST(EXTRACT(epoch FROM pg_catalog.clock_timestamp()) AS double precision)
"""

#: The settings of these names that the server has, in milliseconds where they are times.
SETTINGS: Final = """
    SELECT name, CASE WHEN unit IN ('s', 'min', 'h') THEN CAST(CAST(EXTRACT(
            epoch FROM CAST(setting || unit AS interval)) * 1000 AS bigint) AS text)
        ELSE setting END
    FROM pg_catalog.pg_show_all_settings() WHERE name = ANY(CAST(:names AS text[]))
"""

#: One row: how many connections the role and the database may have (-1: any number), and how
#: many are open in the whole server.
CONNECTIONS: Final = """
    SELECT rolconnlimit, datconnlimit,
        (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend')
    FROM pg_catalog.pg_roles, pg_catalog.pg_database
    WHERE rolname = current_user AND datname = pg_catalog.current_database()
"""

#: One row: how many locks it takes to drop the largest of these schemas, how many tables and
#: indexes they have together, and how many schemas that are.
LOCKS: Final = """
    WITH wanted AS MATERIALIZED (
        SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = ANY(CAST(:schemas AS text[]))
    ), relation AS MATERIALIZED (
        SELECT class.oid, class.relnamespace, class.relkind,
            -- A table for large values has an index.
            CASE WHEN class.reltoastrelid <> 0 THEN 3 ELSE 1 END AS relations
        FROM wanted JOIN pg_catalog.pg_class AS class ON class.relnamespace = wanted.oid
    ), part AS (
        SELECT relnamespace AS namespace, sum(relations) AS locks FROM relation GROUP BY 1
        UNION ALL SELECT typnamespace, count(*) FROM wanted
            JOIN pg_catalog.pg_type ON typnamespace = wanted.oid GROUP BY 1
        UNION ALL SELECT connamespace, count(*) FROM wanted
            JOIN pg_catalog.pg_constraint ON connamespace = wanted.oid GROUP BY 1
        UNION ALL SELECT pronamespace, count(*) FROM wanted
            JOIN pg_catalog.pg_proc ON pronamespace = wanted.oid GROUP BY 1
        UNION ALL SELECT relnamespace, count(*) FROM relation
            JOIN pg_catalog.pg_attrdef ON adrelid = relation.oid GROUP BY 1
        UNION ALL SELECT relnamespace, count(*) FROM relation
            JOIN pg_catalog.pg_trigger ON tgrelid = relation.oid GROUP BY 1
    )
    SELECT COALESCE((SELECT CAST(max(locks) AS bigint) FROM (
            SELECT sum(locks) AS locks FROM part GROUP BY namespace) AS each), 0),
        (SELECT count(*) FROM relation WHERE relkind IN ('r', 'p', 'S', 'v', 'm')),
        (SELECT count(*) FROM wanted)
"""

#: The system catalogs that consist of dead rows for the most part: name, dead rows, and bytes.
BLOATED_CATALOGS: Final = """
    SELECT relname, n_dead_tup, pg_catalog.pg_total_relation_size(relid)
    FROM pg_catalog.pg_stat_sys_tables
    WHERE schemaname = 'pg_catalog' AND n_dead_tup > 100000 AND n_dead_tup > n_live_tup
    ORDER BY n_dead_tup DESC
"""

#: One row: whether everybody may create things in the schema public; and which of these
#: tables are there.
PUBLIC: Final = """
    SELECT pg_catalog.has_schema_privilege('public', namespace.oid, 'CREATE'),
        ARRAY(SELECT CAST(relname AS text) FROM pg_catalog.pg_class
              WHERE relnamespace = namespace.oid AND relkind IN ('r', 'p', 'v', 'm', 'f')
              AND relname = ANY(CAST(:tables AS text[])) ORDER BY relname)
    FROM pg_catalog.pg_namespace AS namespace WHERE nspname = 'public'
"""

#: All schemas but the server's own: name, comment, and how many of these tables are there.
SCHEMAS: Final = """
    SELECT CAST(nspname AS text), pg_catalog.obj_description(namespace.oid, 'pg_namespace'), (
        SELECT count(*) FROM pg_catalog.pg_class
        WHERE relnamespace = namespace.oid AND relname = ANY(CAST(:tables AS text[]))
        AND relkind IN ('r', 'p'))
    FROM pg_catalog.pg_namespace AS namespace
    WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
    ORDER BY nspname COLLATE "C"
"""

#: Indexes in these schemas that the server does not use, and nobody is building: schema, name.
INVALID_INDEXES: Final = """
    SELECT CAST(nspname AS text), CAST(class.relname AS text)
    FROM pg_catalog.pg_index
    JOIN pg_catalog.pg_class AS class ON class.oid = indexrelid
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE NOT indisvalid AND nspname = ANY(CAST(:schemas AS text[]))
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index AS progress
                    WHERE progress.index_relid = indexrelid)
    ORDER BY 1, 2
"""


def create_table(schema: str, table: str) -> str:
    """Create a table with nothing special in it."""
    return f"CREATE TABLE {_qualified(schema, table)} (id serial PRIMARY KEY)"


def insert_row(schema: str, table: str) -> str:
    """Insert a row into that table."""
    return f"INSERT INTO {_qualified(schema, table)} DEFAULT VALUES"


def drop_schema(schema: str) -> str:
    """Drop a schema with all that is in it."""
    return f"DROP SCHEMA {_sql.quote_identifier(schema)} CASCADE"


def drop_index(schema: str, index: str) -> str:
    """Drop an index, without keeping others from its table."""
    return f"DROP INDEX CONCURRENTLY {_qualified(schema, index)}"


def revoke_create_on_public() -> str:
    """Let nobody but its owner create things in the schema public."""
    return "REVOKE CREATE ON SCHEMA public FROM PUBLIC"


def alter_system(setting: str, value: int) -> str:
    """Change a setting of the server."""
    return f"ALTER SYSTEM SET {_sql.quote_identifier(setting)} = {value:d}"


def vacuum(table: str) -> str:
    """Make room in a system catalog."""
    return f"VACUUM {_qualified('pg_catalog', table)}"


def _qualified(schema: str, name: str) -> str:
    return f"{_sql.quote_identifier(schema)}.{_sql.quote_identifier(name)}"
