"""All SQL text of the library, and the one function that quotes identifiers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from onegov_orm.errors import ConfigurationError

#: What a connection sees before any schema is chosen. ``pg_catalog`` stands first, so
#: that the server refuses to create anything there.
NEUTRAL_PATH: Final = "pg_catalog"

BEGIN: Final = "BEGIN"
COMMIT: Final = "COMMIT"
ROLLBACK: Final = "ROLLBACK"
DISCARD_ALL: Final = "DISCARD ALL"
RESET_SEARCH_PATH: Final = "RESET search_path"
SET_READ_ONLY: Final = "SET TRANSACTION READ ONLY"
SET_DEFERRABLE: Final = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"
#: From its first snapshot on, a transaction that can't write never can.
TAKE_SNAPSHOT: Final = "SELECT"

#: Ends what one customer can leave on a connection in secret, by a function or a trigger:
#: ``lastval()``, temporary tables, notifications, open cursors and session locks.
#: Together these cost the server some 5 microseconds.
CLEANSE: Final = (
    "DISCARD SEQUENCES",
    "DISCARD TEMP",
    "UNLISTEN *",
    "CLOSE ALL",
    "SELECT pg_catalog.pg_advisory_unlock_all()",
)

#: The same on a hot standby, which refuses the statement, and where nobody can listen.
STANDBY_CLEANSE: Final = tuple(sql for sql in CLEANSE if not sql.startswith("UNLISTEN"))

#: One row of the primary: where its log ends; where the part ends that is written for good,
#: and the seconds after which each commit is in it; whether that was mended; and which database
#: this is.
LOG_END: Final = """
    SELECT CAST(pg_catalog.pg_current_wal_insert_lsn() AS text),
        CAST(pg_catalog.pg_current_wal_flush_lsn() AS text),
        -- Who commits asynchronously waits for the log's writer, at most three of its rounds.
        3 * CAST(EXTRACT(epoch FROM CAST(
            pg_catalog.current_setting('wal_writer_delay') AS interval)) AS double precision),
        -- Of a record that nobody waits for, the writer may leave the part on the last page
        -- unwritten: replicas can't replay it, and never get to the end. Its commit writes it.
        CASE WHEN pg_catalog.pg_current_wal_insert_lsn() > pg_catalog.pg_current_wal_flush_lsn()
            AND 0 = pg_catalog.mod(
                pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), '0/0'),
                CAST(pg_catalog.current_setting('wal_block_size') AS pg_catalog.numeric))
            THEN CAST(pg_catalog.pg_current_xact_id() AS text) END,
        CAST(system_identifier AS text), CAST(pg_catalog.current_database() AS text)
    FROM pg_catalog.pg_control_system()
"""

#: One row of a replica: whether it is one, whether it has replayed the log up to the one and
#: to the other point, and which database this is.
REPLAYED: Final = """
    SELECT pg_catalog.pg_is_in_recovery(),
        COALESCE(
            pg_catalog.pg_last_wal_replay_lsn() >= CAST(CAST(:inserted AS text) AS pg_lsn), false),
        COALESCE(
            pg_catalog.pg_last_wal_replay_lsn() >= CAST(CAST(:flushed AS text) AS pg_lsn), false),
        CAST(system_identifier AS text), CAST(pg_catalog.current_database() AS text)
    FROM pg_catalog.pg_control_system()
"""

#: Stands in front of a text of several statements, for drivers that would prepare it.
SCRIPT: Final = "/* several statements */\n"

#: How SQLAlchemy's savepoints begin: such statements have neither parameters nor rows.
SAVEPOINTS: Final = ("SAVEPOINT sa_", "RELEASE SAVEPOINT sa_", "ROLLBACK TO SAVEPOINT sa_")

SERVER_VERSION: Final = "SHOW server_version_num"

LIST_SCHEMAS: Final = """
    SELECT nspname FROM pg_catalog.pg_namespace
    WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
    AND (CAST(:prefix AS text) IS NULL OR starts_with(nspname, CAST(:prefix AS text)))
    ORDER BY nspname
"""

#: The comment of a schema; no row if there is no such schema.
SCHEMA_COMMENT: Final = """
    SELECT pg_catalog.obj_description(oid, 'pg_namespace')
    FROM pg_catalog.pg_namespace WHERE nspname = CAST(:schema AS text)
"""

OWNS_SCHEMA: Final = """
    SELECT pg_catalog.pg_has_role(nspowner, 'USAGE')
    FROM pg_catalog.pg_namespace WHERE nspname = CAST(:schema AS text)
"""

SCHEMA_EXISTS: Final = """
    SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = CAST(:schema AS text))
"""

LOCK: Final = "SELECT pg_catalog.pg_advisory_xact_lock(:key)"

TRY_LOCK: Final = "SELECT pg_catalog.pg_try_advisory_xact_lock(hashtextextended(:name, 0))"

#: The schemas made ahead that this role can rename, and their comments.
SPARES: Final = """
    SELECT CAST(nspname AS text), pg_catalog.obj_description(oid, 'pg_namespace')
    FROM pg_catalog.pg_namespace
    WHERE starts_with(nspname, 'spare:') AND pg_catalog.pg_has_role(nspowner, 'USAGE')
    ORDER BY nspname
"""

#: One row per required extension: its name, the schema it lives in (null: not created),
#: whether the server could create it, whether the role may use that schema, and whether it
#: may create schemas.
EXTENSIONS: Final = """
    SELECT wanted.name, namespace.nspname,
        -- Asking what is available reads many files, so that it is left for those who need it.
        CASE WHEN extension.oid IS NULL THEN EXISTS (
            SELECT FROM pg_catalog.pg_available_extensions AS available
            WHERE available.name = wanted.name
        ) ELSE true END,
        pg_catalog.has_schema_privilege(namespace.oid, 'USAGE'),
        pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
    FROM unnest(CAST(:names AS text[])) AS wanted(name)
    LEFT JOIN pg_catalog.pg_extension AS extension ON extension.extname = wanted.name
    LEFT JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = extension.extnamespace
"""

#: One row: whether the schema exists; what it holds, as two arrays: relations (tables, views,
#: indexes, sequences) and types; whether the role may use it and create things there; its comment.
INVENTORY: Final = """
    SELECT
        namespace.oid IS NOT NULL,
        ARRAY(SELECT CAST(relname AS text) FROM pg_catalog.pg_class
              WHERE relnamespace = namespace.oid),
        ARRAY(SELECT CAST(typname AS text) FROM pg_catalog.pg_type
              WHERE typnamespace = namespace.oid AND typtype IN ('e', 'd')),
        pg_catalog.has_schema_privilege(namespace.oid, 'USAGE')
        AND pg_catalog.has_schema_privilege(namespace.oid, 'CREATE'),
        pg_catalog.obj_description(namespace.oid, 'pg_namespace')
    FROM (VALUES (CAST(:schema AS text))) AS wanted(name)
    LEFT JOIN pg_catalog.pg_namespace AS namespace ON namespace.nspname = wanted.name
"""


def quote_identifier(name: str) -> str:
    """Return the name as a quoted identifier, whatever characters it has.

    Raises ``ValueError`` for a null character, which PostgreSQL can't store.
    """
    if "\x00" in name:
        raise ValueError("an identifier can't contain a null character")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Return the text as a string literal, for statements that take no parameters."""
    if "\x00" in text:
        raise ValueError("a literal can't contain a null character")
    escaped = text.replace("'", "''")
    return "E'" + escaped.replace("\\", "\\\\") + "'" if "\\" in text else f"'{escaped}'"


def search_path(schemas: Iterable[str]) -> str:
    """Return the schemas as PostgreSQL reads a search path."""
    return ", ".join(quote_identifier(schema) for schema in schemas)


def set_local(setting: str, value: str) -> str:
    """Set one of the server's settings until the end of the transaction."""
    return f"SET LOCAL {quote_identifier(setting)} TO {quote_literal(value)}"


def set_local_search_path(schemas: Iterable[str]) -> str:
    """Set the search path until the end of the transaction."""
    return f"SET LOCAL search_path TO {search_path(schemas)}"


def set_search_path(schemas: Iterable[str]) -> str:
    """Set the search path until the end of the connection."""
    return f"SET search_path TO {search_path(schemas)}"


def external_opening(extensions_schema: str, idle_timeout: str) -> tuple[str, ...]:
    """Return what a transaction behind a pooler starts with, whatever its schema.

    The connections there have settings of others: a path of their own, and no limit for a
    client that went away.
    """
    return (
        set_local_search_path((NEUTRAL_PATH, extensions_schema)),
        set_local("idle_in_transaction_session_timeout", idle_timeout),
    )


def require_schema(schema: str, refused: str) -> str:
    """Fail on the server unless the schema exists, and its comment does not begin so.

    The comment is what the error of such a schema is about.
    """
    quoted, prefix = quote_literal(quote_identifier(schema)), quote_literal(refused)
    described = f"pg_catalog.obj_description({quoted}::pg_catalog.regnamespace, 'pg_namespace')"
    is_refused = f"pg_catalog.starts_with(comment, {prefix})"
    refusal = f"CASE WHEN {is_refused} THEN CAST(comment AS pg_catalog.int4) END"
    # All parts are quoted above.
    return f"SELECT {refusal} FROM {described} AS described(comment)"  # noqa: S608


def begin(isolation_level: str | None, read_only: bool | None, deferrable: bool | None) -> str:
    """Begin a transaction with these characteristics; None leaves the server's default."""
    parts = [BEGIN]
    if isolation_level is not None:
        parts.append(f"ISOLATION LEVEL {isolation_level}")
    if read_only is not None:
        parts.append("READ ONLY" if read_only else "READ WRITE")
    if deferrable is not None:
        parts.append("DEFERRABLE" if deferrable else "NOT DEFERRABLE")
    return " ".join(parts)


def create_schema(schema: str) -> str:
    """Create a schema that must not exist yet."""
    return f"CREATE SCHEMA {quote_identifier(schema)}"


def create_schema_if_not_exists(schema: str) -> str:
    """Create a schema unless it exists."""
    return f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(schema)}"


def comment_on_schema(schema: str, comment: str) -> str:
    """Set the comment of a schema."""
    return f"COMMENT ON SCHEMA {quote_identifier(schema)} IS {quote_literal(comment)}"


def rename_schema(schema: str, to: str) -> str:
    """Rename a schema."""
    return f"ALTER SCHEMA {quote_identifier(schema)} RENAME TO {quote_identifier(to)}"


def create_extension(extension: str, schema: str) -> str:
    """Create an extension in a schema, unless it exists."""
    return (
        f"CREATE EXTENSION IF NOT EXISTS {quote_identifier(extension)} "
        f"SCHEMA {quote_identifier(schema)}"
    )


def move_extension(extension: str, schema: str) -> str:
    """Move an extension to another schema."""
    return f"ALTER EXTENSION {quote_identifier(extension)} SET SCHEMA {quote_identifier(schema)}"


def grant_create_on_database(database: str, role: str) -> str:
    """Let a role create schemas and trusted extensions."""
    return f"GRANT CREATE ON DATABASE {quote_identifier(database)} TO {quote_identifier(role)}"


def grant_create_on_schema(schema: str, role: str) -> str:
    """Let a role use a schema, and create things there."""
    quoted = quote_identifier(schema)
    return f"GRANT USAGE, CREATE ON SCHEMA {quoted} TO {quote_identifier(role)}"


def grant_usage_to_all(schema: str) -> str:
    """Let every role use what is in a schema."""
    return f"GRANT USAGE ON SCHEMA {quote_identifier(schema)} TO PUBLIC"


def declare_cursor(name: str, is_scrollable: bool | None, outlives_transaction: bool) -> str:
    """Begin the declaration of a cursor; its query follows."""
    scroll = {None: "", True: "SCROLL ", False: "NO SCROLL "}[is_scrollable]
    hold = "WITH HOLD " if outlives_transaction else ""
    return f"DECLARE {quote_identifier(name)} {scroll}CURSOR {hold}FOR "


def fetch_forward(cursor: str, count: str) -> str:
    """Fetch the next rows of a cursor: a number of them, or ``ALL``."""
    return f"FETCH FORWARD {count} FROM {quote_identifier(cursor)}"


def move_cursor(cursor: str, distance: int, is_absolute: bool) -> str:
    """Move a cursor to a row, or by a number of rows."""
    direction = "ABSOLUTE" if is_absolute else "RELATIVE"
    return f"MOVE {direction} {distance} FROM {quote_identifier(cursor)}"


def close_cursor(cursor: str) -> str:
    """Close a cursor."""
    return f"CLOSE {quote_identifier(cursor)}"


def listen(channel: str) -> str:
    """Listen to the notifications of a channel."""
    return f"LISTEN {quote_identifier(channel)}"


def prepare_transaction(xid: str) -> str:
    """Prepare the open transaction for a commit in two phases."""
    return f"PREPARE TRANSACTION {quote_literal(xid)}"


def commit_prepared(xid: str) -> str:
    """Commit a prepared transaction."""
    return f"COMMIT PREPARED {quote_literal(xid)}"


def rollback_prepared(xid: str) -> str:
    """Roll a prepared transaction back."""
    return f"ROLLBACK PREPARED {quote_literal(xid)}"


def startup_options(settings: dict[str, str]) -> str:
    """Return settings as libpq's ``options`` parameter, sent while connecting."""
    words = []
    for name, value in settings.items():
        if not name.replace("_", "").replace(".", "").isalnum():
            raise ConfigurationError(f"{name!r} is not the name of a PostgreSQL setting")
        escaped = value.replace("\\", "\\\\").replace(" ", "\\ ")
        words.append(f"-c {name}={escaped}")
    return " ".join(words)


#: One row: which server and database this is, whatever its address.
DATABASE_IDENTITY: Final = """
    SELECT CAST(system_identifier AS text) AS system_identifier,
        CAST(pg_catalog.current_database() AS text) AS database
    FROM pg_catalog.pg_control_system()
"""

#: One row: the numbers of the database and of a schema of it, which these keep when they are
#: renamed (null for a schema that is not there), and whether the transaction has written nothing.
#: The schema is looked up as the search path is: as it is now, not as it was for the snapshot.
SCHEMA_IDENTITY: Final = """
    SELECT CAST(database.oid AS text) || '.' || CAST(CAST(CAST(pg_catalog.to_regnamespace(
            pg_catalog.quote_ident(CAST(:schema AS text))) AS pg_catalog.oid) AS pg_catalog.int8)
            AS text) AS number,
        pg_catalog.pg_current_xact_id_if_assigned() IS NULL AS has_written_nothing
    FROM pg_catalog.pg_database AS database
    WHERE database.datname = pg_catalog.current_database()
"""
