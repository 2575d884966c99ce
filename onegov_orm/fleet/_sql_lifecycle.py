"""The SQL that asks what a schema holds and what depends on it, and drops it in portions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from onegov_orm import _sql

#: How to drop what `DROPPABLE` and `LOOSE` call so.
_KINDS: Final = {
    "r": "TABLE",
    "p": "TABLE",
    "f": "FOREIGN TABLE",
    "v": "VIEW",
    "m": "MATERIALIZED VIEW",
    "S": "SEQUENCE",
    "c": "TYPE",
    "type": "TYPE",
    "routine": "ROUTINE",
}

#: The names and comments of schemas of these names.
COMMENTS: Final = """
    SELECT CAST(nspname AS text), pg_catalog.obj_description(oid, 'pg_namespace')
    FROM pg_catalog.pg_namespace WHERE nspname = ANY (CAST(:names AS text[]))
"""

#: Which of the schema's tables this role can keep others away from, as identifiers.
LOCKABLE: Final = """
    SELECT pg_catalog.format('%I.%I', namespace.nspname, relation.relname)
    FROM pg_catalog.pg_class AS relation
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
    WHERE namespace.nspname = CAST(:schema AS text)
    AND relation.relkind IN ('r', 'p') AND NOT relation.relispartition
    AND pg_catalog.has_table_privilege(relation.oid, 'DELETE')
    ORDER BY relation.oid
"""

#: How many locks all transactions together can have.
LOCK_CAPACITY: Final = """
    SELECT CAST(pg_catalog.current_setting('max_locks_per_transaction') AS bigint) * (
        CAST(pg_catalog.current_setting('max_connections') AS bigint)
        + CAST(pg_catalog.current_setting('max_prepared_transactions') AS bigint))
"""

#: One row per session that has something of the schema locked: its process, what it calls
#: itself, and for how many seconds its transaction has been open.
HOLDERS: Final = """
    SELECT activity.pid, COALESCE(NULLIF(activity.application_name, ''), activity.backend_type),
        CAST(EXTRACT(epoch FROM pg_catalog.now() - activity.xact_start) AS double precision)
    FROM pg_catalog.pg_stat_activity AS activity
    WHERE activity.pid <> pg_catalog.pg_backend_pid() AND activity.pid IN (
        SELECT held.pid FROM pg_catalog.pg_locks AS held
        JOIN pg_catalog.pg_database AS present ON present.oid = held.database
        LEFT JOIN pg_catalog.pg_class AS relation ON relation.oid = held.relation
        LEFT JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
        WHERE held.granted AND present.datname = pg_catalog.current_database()
        AND (namespace.nspname = CAST(:schema AS text)
            OR held.locktype = 'advisory' AND CAST(:key AS bigint) =
                (CAST(held.classid AS bigint) << 32 | CAST(held.objid AS bigint)))
    )
    ORDER BY activity.xact_start
"""

#: What is not in the schema but depends on what is in it, and would be dropped with it. Views
#: depend through their rules, tables through constraints, defaults, triggers and policies.
OUTSIDERS: Final = """
    WITH
    inner_schema AS (
        SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = CAST(:schema AS text)
    ),
    inside(classid, objid) AS (
        SELECT CAST('pg_catalog.pg_class' AS regclass), oid FROM pg_catalog.pg_class
        WHERE relnamespace = (SELECT oid FROM inner_schema)
        UNION ALL
        SELECT CAST('pg_catalog.pg_type' AS regclass), oid FROM pg_catalog.pg_type
        WHERE typnamespace = (SELECT oid FROM inner_schema)
        UNION ALL
        SELECT CAST('pg_catalog.pg_proc' AS regclass), oid FROM pg_catalog.pg_proc
        WHERE pronamespace = (SELECT oid FROM inner_schema)
    ),
    dependents AS (
        SELECT DISTINCT depends.classid, depends.objid,
            COALESCE(relation.oid, rule.ev_class, link.conrelid, fallback.adrelid,
                watcher.tgrelid, policy.polrelid) AS relation,
            COALESCE(routine.pronamespace, type.typnamespace) AS namespace
        FROM pg_catalog.pg_depend AS depends
        JOIN inside ON inside.classid = depends.refclassid AND inside.objid = depends.refobjid
        LEFT JOIN pg_catalog.pg_class AS relation ON relation.oid = depends.objid
            AND depends.classid = CAST('pg_catalog.pg_class' AS regclass)
        LEFT JOIN pg_catalog.pg_rewrite AS rule ON rule.oid = depends.objid
            AND depends.classid = CAST('pg_catalog.pg_rewrite' AS regclass)
        LEFT JOIN pg_catalog.pg_constraint AS link ON link.oid = depends.objid
            AND depends.classid = CAST('pg_catalog.pg_constraint' AS regclass)
        LEFT JOIN pg_catalog.pg_attrdef AS fallback ON fallback.oid = depends.objid
            AND depends.classid = CAST('pg_catalog.pg_attrdef' AS regclass)
        LEFT JOIN pg_catalog.pg_trigger AS watcher ON watcher.oid = depends.objid
            AND depends.classid = CAST('pg_catalog.pg_trigger' AS regclass)
        LEFT JOIN pg_catalog.pg_policy AS policy ON policy.oid = depends.objid
            AND depends.classid = CAST('pg_catalog.pg_policy' AS regclass)
        LEFT JOIN pg_catalog.pg_proc AS routine ON routine.oid = depends.objid
            AND depends.classid = CAST('pg_catalog.pg_proc' AS regclass)
        LEFT JOIN pg_catalog.pg_type AS type ON type.oid = depends.objid
            AND depends.classid = CAST('pg_catalog.pg_type' AS regclass)
        WHERE depends.deptype IN ('n', 'a')
    )
    SELECT DISTINCT COALESCE(
        pg_catalog.pg_describe_object(
            CAST('pg_catalog.pg_class' AS regclass), outer_relation.oid, 0),
        pg_catalog.pg_describe_object(dependents.classid, dependents.objid, 0))
    FROM dependents
    LEFT JOIN pg_catalog.pg_class AS outer_relation ON outer_relation.oid = dependents.relation
    WHERE COALESCE(outer_relation.relnamespace, dependents.namespace)
        <> (SELECT oid FROM inner_schema)
    -- A large value's table has a schema of its own.
    AND outer_relation.relkind IS DISTINCT FROM 't'
    ORDER BY 1
"""

#: The foreign keys of the schema: table and name, as identifiers, and the locks that dropping
#: one takes, at the most: both tables, the constraint, and its triggers.
FOREIGN_KEYS: Final = """
    SELECT pg_catalog.format('%I.%I', namespace.nspname, relation.relname),
        pg_catalog.quote_ident(link.conname), 8
    FROM pg_catalog.pg_constraint AS link
    JOIN pg_catalog.pg_class AS relation ON relation.oid = link.conrelid
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
    WHERE namespace.nspname = CAST(:schema AS text) AND link.contype = 'f'
    AND pg_catalog.pg_has_role(relation.relowner, 'USAGE')
    -- What a partition inherited goes with its parent's.
    AND link.conparentid = 0
    ORDER BY link.conrelid, link.oid LIMIT :number
"""

#: The relations of these kinds: kind, identifier, and the locks that dropping one takes, at the
#: most: itself, its types, and what depends on it with what is a part of that. What is younger
#: comes first, and partitions before what they are parts of: little depends on these.
RELATIONS: Final = """
    SELECT CAST(relation.relkind AS text),
        pg_catalog.format('%I.%I', CAST(:schema AS text), relation.relname),
        6 + 2 * (
            SELECT count(DISTINCT (depends.classid, depends.objid))
            FROM pg_catalog.pg_depend AS depends
            WHERE depends.refclassid = CAST('pg_catalog.pg_class' AS regclass)
            AND depends.refobjid = relation.oid
        )
    FROM pg_catalog.pg_class AS relation
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
    WHERE namespace.nspname = CAST(:schema AS text)
    AND CAST(relation.relkind AS text) = ANY (CAST(:kinds AS text[]))
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS member
        WHERE member.classid = CAST('pg_catalog.pg_class' AS regclass)
        AND member.objid = relation.oid AND (member.deptype = 'e'
            -- A sequence of an identity column goes with its table.
            OR relation.relkind = 'S' AND member.deptype IN ('a', 'i'))
    )
    ORDER BY relation.relhassubclass, relation.oid DESC LIMIT :number
"""

#: Functions, procedures and aggregates, and types that belong to no table, in the same way.
ROUTINES_AND_TYPES: Final = """
    SELECT 'routine', (pg_catalog.pg_identify_object(
        CAST('pg_catalog.pg_proc' AS regclass), routine.oid, 0)).identity, 2
    FROM pg_catalog.pg_proc AS routine
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = routine.pronamespace
    WHERE namespace.nspname = CAST(:schema AS text)
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS member
        WHERE member.classid = CAST('pg_catalog.pg_proc' AS regclass)
        AND member.objid = routine.oid AND member.deptype IN ('e', 'i')
    )
    UNION ALL
    SELECT 'type', pg_catalog.format('%I.%I', namespace.nspname, type.typname), 4
    FROM pg_catalog.pg_type AS type
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = type.typnamespace
    WHERE namespace.nspname = CAST(:schema AS text) AND type.typtype IN ('e', 'd', 'r')
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS member
        WHERE member.classid = CAST('pg_catalog.pg_type' AS regclass)
        AND member.objid = type.oid AND member.deptype = 'e'
    )
    ORDER BY 1 LIMIT :number
"""


def lock_tables(identifiers: Iterable[str]) -> str:
    """Keep everybody else away from tables, whose identifiers the server has quoted."""
    return f"LOCK TABLE {', '.join(identifiers)} IN ACCESS EXCLUSIVE MODE"


def drop_foreign_key(table: str, name: str) -> str:
    """Drop a foreign key; the server has quoted both identifiers."""
    return f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name} CASCADE"


def drop_objects(kind: str, identifiers: Sequence[str]) -> str:
    """Drop things of one kind, and what depends on them; the server has quoted them."""
    return f"DROP {_KINDS[kind]} IF EXISTS {', '.join(identifiers)} CASCADE"


def drop_schema(schema: str) -> str:
    """Drop a schema with all that is in it."""
    return f"DROP SCHEMA {_sql.quote_identifier(schema)} CASCADE"


def own_schema(schema: str, role: str) -> str:
    """Make a role the owner of a schema, as an administrator does."""
    return f"ALTER SCHEMA {_sql.quote_identifier(schema)} OWNER TO {_sql.quote_identifier(role)}"
