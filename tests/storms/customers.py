"""The customers of a storm, what tells them apart, and the checks that use it.

Each customer's rows carry its name, and their keys come from a range of its own. So a
row tells whose it is, whatever connection it was read or written on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

#: Names that need quotes, differ in one character, are a keyword, or are as long as can be.
CUSTOMERS: Final = ("towns-bern", "towns_bern", "user", "z" * 62 + "a", "z" * 62 + "b", "x1")

#: How the names of customers begin that come in the midst of a storm.
GUEST: Final = "guest-"

#: So many keys each customer has for itself.
RANGE: Final = 100_000_000

Execute = Callable[[str], list[tuple[Any, ...]]]

#: A table with this name may be in its customer's schema, and nowhere else.
MADE: Final = "made_by_"

#: What a connection knows: path, schema, setting, locks, channels, plans and cursors.
TRACES: Final = """
    SELECT current_setting('search_path'), current_schema(),
        coalesce(current_setting('storm.owner', true), ''),
        ARRAY(SELECT CAST(objid AS bigint) FROM pg_catalog.pg_locks
              WHERE locktype = 'advisory' AND classid = 0 AND objsubid = 1
              AND pid = pg_backend_pid()),
        ARRAY(SELECT pg_listening_channels()),
        ARRAY(SELECT name FROM pg_catalog.pg_prepared_statements
              WHERE starts_with(name, 'storm')),
        ARRAY(SELECT name FROM pg_catalog.pg_cursors WHERE starts_with(name, 'storm')),
        to_regclass('documents') IS NOT NULL
"""

#: Two functions that nobody can see through: one moves the path, the other makes a table.
FUNCTIONS: Final = """
    CREATE FUNCTION extensions.storm_walk(target text, is_local bool) RETURNS int
    LANGUAGE plpgsql AS $$ BEGIN
        PERFORM set_config('search_path', quote_ident(target), is_local);
        RETURN 1;
    END $$;
    CREATE FUNCTION extensions.storm_shadow(owner text) RETURNS void
    LANGUAGE plpgsql AS $$ BEGIN
        CREATE TEMP TABLE IF NOT EXISTS documents (LIKE documents INCLUDING DEFAULTS);
        INSERT INTO documents (owner) VALUES (owner);
    END $$
"""

_RELATIONS: Final = """
    SELECT nspname, relname FROM pg_catalog.pg_class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relnamespace
    WHERE nspname NOT LIKE 'pg_temp%' AND nspname NOT LIKE 'pg_toast%'
"""


class StormFailure(AssertionError):
    """The storm found something."""


class ForeignRow(StormFailure):
    """A customer's row, object or table is where it must not be."""


class WrongPath(StormFailure):
    """A statement ran on another search path than its own."""


class StateTravelled(StormFailure):
    """What one customer left on a connection reached somebody else."""


class UnexpectedError(StormFailure):
    """A step failed in a way that no step should."""


def number(schema: str) -> int:
    """Return the customer's number, from 1."""
    if schema.startswith(GUEST):
        return len(CUSTOMERS) + 1 + int(schema.removeprefix(GUEST))
    return CUSTOMERS.index(schema) + 1


def name_of(kind: str, schema: str) -> str:
    """Return a name for something of the customer's, such as a cursor."""
    return f"storm_{kind}_{number(schema)}"


def owner_of_key(key: int) -> str:
    """Return the customer from whose sequence the key came."""
    index = key // RANGE - 1
    if index >= len(CUSTOMERS):
        return f"{GUEST}{index - len(CUSTOMERS)}"
    return CUSTOMERS[index] if index >= 0 else "nobody"


def prepare_schema(schema: str, connection: Any) -> None:
    """Give a new customer its range of keys; a subscriber of ``on_schema_init``."""
    start = number(schema) * RANGE
    for table in ("documents", "pages"):
        connection.exec_driver_sql(f"ALTER SEQUENCE {table}_id_seq RESTART WITH {start}")


def check_owner(schema: str, owner: str | None) -> None:
    """Raise `ForeignRow` unless the row is the customer's."""
    if owner != schema:
        raise ForeignRow(f"{schema} met a row of {owner}")


def check_rows(schema: str, rows: Iterable[Any]) -> None:
    """Raise `ForeignRow` unless all rows, of key and owner, are the customer's."""
    for key, owner in rows:
        check_owner(schema, owner)
        check_owner(schema, owner_of_key(key))


def check_path(schema: str, path: str, current: str | None) -> None:
    """Raise `WrongPath` unless this is the customer's search path."""
    if path.replace('"', "") != f"{schema}, pg_catalog, extensions" or current != schema:
        raise WrongPath(f"{schema} ran in {current}, with the search path {path}")


def check_neutral(path: str, current: str | None) -> None:
    """Raise `WrongPath` unless this is the path of a connection without schema."""
    if path != "pg_catalog,extensions" or current != "pg_catalog":
        raise WrongPath(f"a connection without schema is in {current}, with the path {path}")


def check_traces(schema: str | None, traces: Any) -> None:
    """Raise unless all that a connection knows is the customer's; None is nobody."""
    path, current, setting, locks, channels, plans, cursors, sees_documents = traces
    if schema is None:
        check_neutral(path, current)
        if sees_documents:
            raise StateTravelled("a connection without schema sees a table documents")
    else:
        check_path(schema, path, current)
    own = "" if schema is None else schema
    found = {
        "setting": [setting] if setting not in ("", own) else [],
        "locks": [key for key in locks if schema is None or key != number(schema)],
        "channels": [name for name in channels if not _is_own(schema, name)],
        "prepared statements": [name for name in plans if not _is_own(schema, name)],
        "cursors": [name for name in cursors if not _is_own(schema, name)],
    }
    if any(found.values()):
        raise StateTravelled(f"{schema or 'nobody'} found on its connection: {found}")


def _may_have(schema: str, relation: str) -> bool:
    """Tell whether the relation may have come up in this schema."""
    if schema.startswith(GUEST):
        return not relation.startswith(MADE)
    return schema in CUSTOMERS and relation.startswith(f"{MADE}{number(schema)}")


def _is_own(schema: str | None, name: str) -> bool:
    return schema is not None and name.endswith(f"_{number(schema)}")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Watch:
    """Looks at the database from outside the library, with fully qualified names."""

    def __init__(self, execute: Execute) -> None:
        self.execute = execute
        self._before: set[tuple[Any, ...]] = set()
        execute("SET application_name TO 'watch'")

    @property
    def is_newest(self) -> bool:
        """Whether the server reports its search path."""
        return int(self.execute("SHOW server_version_num")[0][0]) >= 180_000

    def begin(self) -> None:
        """Note what is there before the storm; the schemas of the customers exist."""
        self.execute(FUNCTIONS)
        self._before = set(self.execute(_RELATIONS))

    def check_rows(self) -> None:
        """Raise `ForeignRow` if there is a row in the wrong customer's table."""
        parts = []
        for schema in CUSTOMERS:
            low, high = number(schema) * RANGE, number(schema) * RANGE + RANGE
            for table, owner in (("documents", "owner"), ("pages", "text")):
                parts.append(
                    f"(SELECT '{schema}', '{table}', id, {owner} FROM \"{schema}\".{table} "
                    f"WHERE {owner} <> '{schema}' OR id NOT BETWEEN {low} AND {high} LIMIT 3)"
                )
        found = self.execute(" UNION ALL ".join(parts))
        if found:
            raise ForeignRow(f"seen from outside: {found}")

    def check_relations(self) -> None:
        """Raise `ForeignRow` if a table is where none may be made."""
        new = set(self.execute(_RELATIONS)) - self._before
        strays = [
            (schema, relation) for schema, relation in new if not _may_have(schema, relation)
        ]
        if strays:
            raise ForeignRow(f"seen from outside, relations in the wrong schema: {strays}")

    def count_rows(self) -> dict[str, int]:
        """Return how many rows each customer has."""
        return {
            schema: self.execute(f'SELECT count(*) FROM "{schema}".documents')[0][0]
            for schema in CUSTOMERS
        }

    def kill(self, pid: int | None = None) -> None:
        """End a backend of this database's, some or this one, and wait until it is gone."""
        chosen = "true" if pid is None else f"pid = {pid}"
        killed = self.execute(
            "SELECT pid, pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name <> 'watch' "
            f"AND backend_type = 'client backend' AND {chosen} ORDER BY random() LIMIT 1) AS one"
        )
        for gone, _ in killed:
            while _is_running(gone):
                time.sleep(0.001)

    def finish(self) -> None:
        """Roll back what a kill left prepared, so that the database can be dropped."""
        for (xid,) in self.execute(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        ):
            self.execute(f"ROLLBACK PREPARED '{xid}'")
