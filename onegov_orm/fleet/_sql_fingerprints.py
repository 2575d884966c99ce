"""The queries that describe what schemas hold, such that equal schemas of any name are equal.

Nothing is cut out of what the server prints: a schema may be called like a table's alias. The
server itself leaves a schema's name away where the search path makes it superfluous; so the
path is moved to each schema while its objects are described, in one statement for all of them,
and is what it was again at the statement's end.
"""

from __future__ import annotations

from typing import Final

from onegov_orm._sql import quote_identifier
from onegov_orm.fleet._sql_fingerprints_objects import IS_NOT_KEPT, STRUCTURES, is_own
from onegov_orm.fleet._sql_fingerprints_others import OTHERS

#: Tables that say how far a schema is, and not what it is.
BOOKKEEPING: Final = ("alembic_version", "upgrades")

#: The wanted schemas that exist, whether the role may look into them, and who that is.
REACHABLE: Final = """
    SELECT CAST(nspname AS text), pg_catalog.has_schema_privilege(oid, 'USAGE'),
        CAST(current_user AS text)
    FROM pg_catalog.pg_namespace WHERE nspname = ANY(CAST(:schemas AS text[]))
"""

#: Settings to be found again afterwards.
SETTINGS: Final = """
    SELECT pg_catalog.current_setting('search_path') AS path,
        pg_catalog.current_setting('jit') AS jit
"""

#: Has the server compile queries to machine code, or not: for ours, that takes longer than
#: to run them.
SET_JIT: Final = "SELECT pg_catalog.set_config('jit', CAST(:jit AS text), true)"

# pg_temp stands last, or a temporary table would hide the customer's. What is sorted by schema
# has the path moved once for each.
_WANTED: Final = f"""
    wanted AS MATERIALIZED (
        SELECT oid AS namespace, CAST(nspname AS text) AS schema, nspowner, nspacl,
            pg_catalog.quote_ident(nspname) || ', pg_catalog, pg_temp' AS path
        FROM pg_catalog.pg_namespace WHERE nspname = ANY(CAST(:schemas AS text[]))
    ), relation AS MATERIALIZED (
        SELECT wanted.*, class.oid, class.relkind, pg_catalog.quote_ident(class.relname) AS name
        FROM wanted JOIN pg_catalog.pg_class AS class ON class.relnamespace = wanted.namespace
        WHERE class.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
        AND (class.relname <> ALL(CAST(:bookkeeping AS text[])) OR class.relkind NOT IN ('r', 'p'))
        AND {is_own("pg_class", "class.oid")} AND {IS_NOT_KEPT}
        ORDER BY wanted.namespace
    )"""


def _privileges(acl: str) -> str:
    """Return a list of privileges as text; the owner is a word, whoever it is."""
    return f"""COALESCE((
        SELECT pg_catalog.string_agg(entry, ', ' ORDER BY entry COLLATE "C") FROM (
            SELECT pg_catalog.concat(privilege_type, ' TO ', CASE grantee WHEN 0 THEN 'PUBLIC'
                WHEN object.owner THEN 'the owner'
                ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee)) END,
                CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
            FROM pg_catalog.aclexplode({acl})) AS granted(entry)), 'none')"""


# Privileges that are the same as if nobody had ever granted any are not told.
_ITEMS: Final = f"""
    SELECT object.schema, item.kind, item.name, item.definition
    FROM object LEFT JOIN pg_catalog.pg_description AS described
        ON described.classoid = object.catalog AND described.objoid = object.oid
        AND described.objsubid = object.part
    CROSS JOIN LATERAL (VALUES
        (object.kind, object.name, object.definition),
        ('comment', object.kind || ' ' || object.name, described.description),
        ('owner', object.kind || ' ' || object.name, CASE WHEN object.owner <> object.schema_owner
            THEN pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(object.owner)) END),
        ('privileges', object.kind || ' ' || object.name, CASE WHEN object.acl IS NOT NULL THEN
            NULLIF({_privileges("object.acl")},
                {_privileges("pg_catalog.acldefault(object.acl_kind, object.owner)")}) END)
    ) AS item(kind, name, definition)
    WHERE item.definition IS NOT NULL AND item.kind NOT IN ('schema', 'default privileges')"""

# What %L quotes can't be taken for something else. The collation is not the database's own.
_HASHES: Final = """
    SELECT schema, pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
            pg_catalog.string_agg(line, chr(10) ORDER BY line COLLATE "C"), 'UTF8')), 'hex')
        AS digest
    FROM (SELECT schema, pg_catalog.format('%L %L %L', kind, name, definition) AS line
          FROM item) AS told
    GROUP BY schema
"""

_DETAILS: Final = "SELECT schema, kind, name, definition FROM item"


def _query(objects: str, result: str) -> str:
    """Return the whole statement, whose condition brings the search path back.

    It needs the number of all items, so that all of them have been described by then.
    """
    return f"""WITH {_WANTED}, object AS MATERIALIZED ({objects}),
        item AS MATERIALIZED ({_ITEMS}), counted AS MATERIALIZED (SELECT count(*) FROM item),
        restored AS MATERIALIZED (
            SELECT CASE WHEN count >= 0
                THEN pg_catalog.set_config('search_path', CAST(:path AS text), true) END AS path
            FROM counted)
        SELECT told.* FROM restored LEFT JOIN ({result}) AS told ON restored.path IS NOT NULL"""


_OBJECTS: Final = {**STRUCTURES, **OTHERS}

#: For each group of kinds: one row per schema that has any, with the hash of what it has.
HASHES: Final = {group: _query(objects, _HASHES) for group, objects in _OBJECTS.items()}

#: The same groups in full: schema, kind, name, and definition.
DETAILS: Final = {group: _query(objects, _DETAILS) for group, objects in _OBJECTS.items()}


def grant_usage(schema: str, role: str) -> str:
    """Let a role look into a schema."""
    return f"GRANT USAGE ON SCHEMA {quote_identifier(schema)} TO {quote_identifier(role)}"
