"""The statements that copy a schema's rows, and give it what goes with its structure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from onegov_orm._sql import quote_identifier, quote_literal
from onegov_orm.fleet._sql_blueprint import NAMESPACE, relation

SET_READ_ONLY: Final = "SET TRANSACTION READ ONLY"

#: The guard of a long copy only waits.
NEVER_IDLE: Final = "SET LOCAL idle_in_transaction_session_timeout TO 0"

#: The tables that hold rows: name, columns without the generated ones, for each of these the
#: type that a value has to be turned into (null: it is the same in every schema), and the table
#: that takes the rows. Which partition by hash has a row may depend on the type's oid, so that
#: the topmost table decides it anew.
TABLE_ROWS: Final = f"""
    SELECT CAST(class.relname AS pg_catalog.text),
        pg_catalog.array_agg(CAST(field.attname AS pg_catalog.text) ORDER BY field.attnum)
            FILTER (WHERE field.attnum IS NOT NULL),
        pg_catalog.array_agg(CASE WHEN type.typnamespace = {NAMESPACE}
            THEN pg_catalog.format_type(field.atttypid, field.atttypmod) END ORDER BY field.attnum)
            FILTER (WHERE field.attnum IS NOT NULL),
        CASE WHEN class.relispartition AND EXISTS (
                SELECT FROM pg_catalog.pg_partition_ancestors(class.oid) AS ancestor
                JOIN pg_catalog.pg_partitioned_table AS root ON root.partrelid = ancestor.relid
                WHERE root.partstrat = 'h')
            THEN (SELECT CAST(root.relname AS pg_catalog.text) FROM pg_catalog.pg_class AS root
                WHERE root.oid = pg_catalog.pg_partition_root(class.oid))
            ELSE CAST(class.relname AS pg_catalog.text) END,
        pg_catalog.row_security_active(class.oid)
    FROM pg_catalog.pg_class AS class
    LEFT JOIN pg_catalog.pg_attribute AS field ON field.attrelid = class.oid
        AND field.attnum > 0 AND NOT field.attisdropped AND field.attgenerated = ''
    LEFT JOIN pg_catalog.pg_type AS type ON type.oid = field.atttypid
    WHERE class.relnamespace = {NAMESPACE} AND class.relkind = 'r'
    GROUP BY class.oid, class.relname, class.relispartition
    ORDER BY class.relname
"""

#: All sequences, those of identity columns too.
SEQUENCE_NAMES: Final = f"""
    SELECT CAST(relname AS pg_catalog.text) FROM pg_catalog.pg_class
    WHERE relnamespace = {NAMESPACE} AND relkind = 'S' ORDER BY relname
"""

#: The tables to be held as they are while they are read.
TABLE_NAMES: Final = """
    SELECT CAST(class.relname AS pg_catalog.text) FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS schema ON schema.oid = class.relnamespace
    WHERE schema.nspname = CAST(:schema AS pg_catalog.text) AND class.relkind IN ('r', 'p')
    ORDER BY class.relname
"""

#: For how many locks the server's table has room, and how many each connection stands for.
LOCK_ROOM: Final = """
    SELECT CAST(pg_catalog.current_setting('max_locks_per_transaction') AS pg_catalog.int4),
        CAST(pg_catalog.current_setting('max_connections') AS pg_catalog.int4)
        + CAST(pg_catalog.current_setting('max_prepared_transactions') AS pg_catalog.int4)
"""

#: About how many locks it takes to read what a schema holds, and to make it: with relations come
#: toast tables, and much of the rest is locked while it is altered.
LOCKS: Final = """
    SELECT pg_catalog.count(*), pg_catalog.count(*)
        + 2 * pg_catalog.count(*) FILTER (WHERE class.reltoastrelid <> 0)
        + (SELECT pg_catalog.count(*) FROM pg_catalog.pg_type
            WHERE typnamespace = schema.oid)
        + (SELECT pg_catalog.count(*) FROM pg_catalog.pg_constraint
            WHERE connamespace = schema.oid)
        + (SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc
            WHERE pronamespace = schema.oid)
    FROM pg_catalog.pg_namespace AS schema
    JOIN pg_catalog.pg_class AS class ON class.relnamespace = schema.oid
    WHERE schema.nspname = CAST(:schema AS pg_catalog.text)
    GROUP BY schema.oid
"""

#: Of the roles, those that exist, and whether this role may act for them.
ROLES: Final = """
    SELECT CAST(rolname AS pg_catalog.text), pg_catalog.pg_has_role(oid, 'MEMBER')
    FROM pg_catalog.pg_roles WHERE rolname = ANY(CAST(:names AS text[]))
"""

CURRENT_ROLE: Final = "SELECT CAST(current_user AS pg_catalog.text)"

SET_VALUE: Final = """
    SELECT pg_catalog.setval(
        CAST(CAST(:sequence AS pg_catalog.text) AS pg_catalog.regclass), :value, :called)
"""

#: What new objects have by the default privileges of their owner, and is taken from them before
#: they get those of the original: object, and who has any.
GIVEN_BY_DEFAULT: Final = f"""
    SELECT DISTINCT made.target, CASE WHEN item.grantee <> 0
        THEN CAST(pg_catalog.pg_get_userbyid(item.grantee) AS pg_catalog.text) END
    FROM (
        SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || {relation("oid")}
            AS target, relacl AS acl, relowner AS owner FROM pg_catalog.pg_class
        WHERE relnamespace = {NAMESPACE} AND relkind IN ('r', 'p', 'v', 'm', 'S')
        UNION ALL SELECT 'ROUTINE '
            || CAST(CAST(oid AS pg_catalog.regprocedure) AS pg_catalog.text), proacl,
            proowner FROM pg_catalog.pg_proc WHERE pronamespace = {NAMESPACE}
        UNION ALL SELECT 'TYPE '
            || CAST(CAST(oid AS pg_catalog.regtype) AS pg_catalog.text), typacl, typowner
        FROM pg_catalog.pg_type WHERE typnamespace = {NAMESPACE}
    ) AS made
    CROSS JOIN LATERAL pg_catalog.aclexplode(made.acl) AS item
"""


def qualified(schema: str, name: str) -> str:
    """Return the name of something in a schema."""
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"


def lock_tables(schema: str, names: Iterable[str]) -> str:
    """Keep others from altering or dropping tables; they can be read and written."""
    tables = ", ".join(f"{qualified(schema, name)}" for name in names)
    return f"LOCK TABLE ONLY {tables} IN ACCESS SHARE MODE"


def insert_rows(
    source: str, target: str, table: str, into: str, columns: Sequence[tuple[str, str | None]]
) -> str:
    """Copy the rows of a table; a type of the schema's own travels as text."""
    values = ", ".join(
        name if own is None else f"CAST(CAST({name} AS pg_catalog.text) AS {own})"
        for name, own in ((quote_identifier(name), own) for name, own in columns)
    )
    return (
        f"INSERT INTO {qualified(target, into)} {_list_of(name for name, _ in columns)}"
        f" OVERRIDING SYSTEM VALUE SELECT {values} FROM ONLY {qualified(source, table)}"
    )


def copy_out(schema: str, table: str, columns: Iterable[str]) -> str:
    """Write the rows of a table out as text."""
    return f"COPY {_copied(schema, table, columns)} TO STDOUT (FORMAT text, ENCODING 'UTF8')"


def copy_in(schema: str, table: str, columns: Iterable[str]) -> str:
    """Read the rows of a table as `copy_out` wrote them."""
    return f"COPY {_copied(schema, table, columns)} FROM STDIN (FORMAT text, ENCODING 'UTF8')"


def sequence_values(schema: str, names: Iterable[str]) -> str:
    """Read where sequences stand: the name, the last value, and whether it was given out."""
    return " UNION ALL ".join(
        f"SELECT {quote_literal(name)}, last_value, is_called FROM {qualified(schema, name)}"
        for name in names
    )


def comment_on(target: str, comment: str) -> str:
    """Comment on something, which is named as the server wants it."""
    return f"COMMENT ON {target} IS {quote_literal(comment)}"


def revoke_all(target: str, role: str) -> str:
    """Take all privileges from a role, or from ``PUBLIC``."""
    return f"REVOKE ALL ON {target} FROM {role}"


def grant(privileges: str, target: str, role: str, is_grantable: bool) -> str:
    """Give privileges to a role, or to ``PUBLIC``."""
    passing_on = " WITH GRANT OPTION" if is_grantable else ""
    return f"GRANT {privileges} ON {target} TO {role}{passing_on}"


def default_privileges(owner: str | None, schema: str, grants: str) -> str:
    """Give privileges on what will be made in a schema."""
    by = f"FOR ROLE {quote_identifier(owner)} " if owner is not None else ""
    return f"ALTER DEFAULT PRIVILEGES {by}IN SCHEMA {quote_identifier(schema)} {grants}"


def set_owner(target: str, owner: str) -> str:
    """Give something to another owner."""
    return f"ALTER {target} OWNER TO {quote_identifier(owner)}"


def allow_to_bypass(role: str) -> str:
    """Let a role read rows that row security hides."""
    return f"ALTER ROLE {quote_identifier(role)} BYPASSRLS"


def _copied(schema: str, table: str, columns: Iterable[str]) -> str:
    return f"{qualified(schema, table)} {_list_of(columns)}"


def _list_of(columns: Iterable[str]) -> str:
    """Return a list of columns, which must not be empty: without any there is no list."""
    names = ", ".join(quote_identifier(name) for name in columns)
    return f"({names})" if names else ""
