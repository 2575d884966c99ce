"""Makes the schema of a new customer: all of it, or nothing.

What does I/O here takes a connection of SQLAlchemy's that is in a transaction of its own,
at ``READ COMMITTED``: under an advisory lock, each statement then sees what those who
had the lock before have committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import MetaData, text
from sqlalchemy.exc import DBAPIError

from onegov_orm import _sql
from onegov_orm._ddl import Inventory, Script, inventory_of, scripts_of
from onegov_orm._prelude import Prelude
from onegov_orm.errors import (
    ExtensionMisplaced,
    ExtensionUnavailable,
    PermissionDenied,
    SchemaExists,
)
from onegov_orm.names import SchemaName

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Dialect

    from onegov_orm.signals import Signals
    from onegov_orm.typing import DeclarativeBase

#: ``insufficient_privilege`` and ``duplicate_schema``.
_DENIED: Final = "42501"
_DUPLICATE_SCHEMA: Final = "42P06"

#: Debian's packages of extensions that are not part of PostgreSQL's own.
_PACKAGES: Final = {
    "postgis": "postgresql-{version}-postgis-3",
    "vector": "postgresql-{version}-pgvector",
    "pg_cron": "postgresql-{version}-cron",
    "pgaudit": "postgresql-{version}-pgaudit",
    "pg_partman": "postgresql-{version}-partman",
    "hypopg": "postgresql-{version}-hypopg",
    "plpython3u": "postgresql-plpython3-{version}",
}

Stamp = Callable[["Connection", SchemaName], None]


class Provisioner:
    """Knows what a schema has to hold, and which schemas are known to hold it."""

    def __init__(
        self,
        bases: list[DeclarativeBase],
        required_extensions: set[str],
        signals: Signals,
        extensions_schema: str,
        shared_schema: str,
    ) -> None:
        self.bases = bases
        self.required_extensions = required_extensions
        self.extensions_schema = extensions_schema
        self.shared_schema = shared_schema
        #: Called for a new schema in the end, to note that it is up to date.
        self.stamps: list[Stamp] = []
        self.created_schemas: set[str] = set()
        #: Schemas that exist, whether they are complete or not.
        self.found_schemas: set[str] = set()
        self.created_extensions: set[str] = set()
        self._signals = signals
        self._compiled_for: object = None
        self._scripts: Sequence[Script] = ()
        self._shared_scripts: Sequence[Script] = ()
        self._is_shared_made = False

    def is_known(self, schema: str) -> bool:
        """Tell whether this process made sure of the schema already; asks nobody."""
        if self._compiled_for != self._signature():
            self.created_schemas.clear()
            return False
        return schema in self.created_schemas and self.created_extensions.issuperset(
            self.required_extensions
        )

    def options(self, schema: SchemaName) -> dict[str, Any]:
        """Return the execution options of the connection that `ensure` needs."""
        prelude = Prelude(schema, self.extensions_schema, must_exist=False)
        return {"schema": schema, "prelude": prelude, "isolation_level": "READ COMMITTED"}

    def ensure(self, connection: Connection, schema: SchemaName) -> None:
        """Make sure that the schema exists with all it has to hold.

        The connection has the execution options that `options` returns.
        """
        self._compile(connection.dialect)
        extensions = set(self.required_extensions)
        with connection.begin():
            self._ensure_extensions(connection, extensions)
            if not self._is_shared_made:
                self._ensure_shared(connection)
            self._ensure_complete(connection, schema)
        self.created_extensions |= extensions
        self._is_shared_made = True
        self.created_schemas.add(schema)

    def ensure_extensions(self, connection: Connection) -> None:
        """Make sure that the required extensions exist."""
        extensions = set(self.required_extensions)
        with connection.begin():
            self._ensure_extensions(connection, extensions)
        self.created_extensions |= extensions

    def forget(self, schema: str) -> None:
        """Ask the server about the schema the next time."""
        self.created_schemas.discard(schema)
        self.found_schemas.discard(schema)

    def _signature(self) -> tuple[tuple[int, int], ...]:
        return tuple((id(base.metadata), len(base.metadata.tables)) for base in self.bases)

    def _compile(self, dialect: Dialect) -> None:
        signature = self._signature()
        if self._compiled_for == signature:
            return
        metadatas: list[MetaData] = list(dict.fromkeys(base.metadata for base in self.bases))
        self._scripts = scripts_of(metadatas, None, dialect)
        self._shared_scripts = scripts_of(metadatas, self.shared_schema, dialect)
        self._is_shared_made = not any(
            table.schema == self.shared_schema for md in metadatas for table in md.tables.values()
        )
        self.created_schemas.clear()
        self._compiled_for = signature

    def _ensure_complete(self, connection: Connection, schema: SchemaName) -> None:
        row = _inventory_row(connection, schema)
        if row is not None and self._is_complete(inventory_of(row)):
            return
        lock(connection, f"schema {schema}")
        row = _inventory_row(connection, schema)
        inventory = inventory_of(row)
        if row is not None and self._is_complete(inventory):
            return
        if row is None:
            create_schema(connection, schema)
        is_new = all(script.is_absent_from(inventory) for script in self._scripts)
        self._make(connection, self._scripts, inventory, is_new)
        if is_new:
            self._signals.on_schema_init.send(schema, connection=connection)
            for stamp in self.stamps:
                stamp(connection, schema)

    def _is_complete(self, inventory: Inventory) -> bool:
        has_tables = any(not script.is_absent_from(inventory) for script in self._scripts)
        return has_tables and all(script.is_complete_in(inventory) for script in self._scripts)

    def _make(
        self,
        connection: Connection,
        scripts: Sequence[Script],
        inventory: Inventory,
        is_new: bool,
    ) -> None:
        for script in scripts:
            if is_new:
                script.make_all(connection)
            else:
                script.make_missing(connection, inventory)

    def _ensure_shared(self, connection: Connection) -> None:
        row = _inventory_row(connection, self.shared_schema)
        scripts = self._shared_scripts
        if row is not None and all(s.is_complete_in(inventory_of(row)) for s in scripts):
            return
        lock(connection, f"shared schema {self.shared_schema}")
        inventory = inventory_of(_inventory_row(connection, self.shared_schema))
        with translated_errors(connection):
            connection.exec_driver_sql(_sql.create_schema_if_not_exists(self.shared_schema))
        is_new = all(script.is_absent_from(inventory) for script in scripts)
        self._make(connection, scripts, inventory, is_new)

    def _ensure_extensions(self, connection: Connection, wanted: set[str]) -> None:
        if not self._missing_extensions(connection, wanted):
            return
        lock(connection, "extensions")
        missing = self._missing_extensions(connection, wanted)
        create = [_sql.create_schema_if_not_exists(self.extensions_schema)]
        create += [_sql.create_extension(name, self.extensions_schema) for name in missing]
        administrator = "; ".join([*create, _sql.grant_usage_to_all(self.extensions_schema)])
        with translated_errors(connection, administrator):
            for sql in create:
                connection.exec_driver_sql(sql)

    def _missing_extensions(self, connection: Connection, wanted: set[str]) -> list[str]:
        """Return the extensions to be created; raises for those that can't be."""
        names = sorted(wanted - self.created_extensions)
        if not names:
            return []
        missing = []
        for name, found_in, is_available in connection.execute(
            text(_sql.EXTENSIONS), {"names": names}
        ):
            if found_in is None:
                if not is_available:
                    raise _unavailable(connection, name)
                missing.append(name)
            elif found_in not in (self.extensions_schema, "pg_catalog"):
                sql = _sql.move_extension(name, self.extensions_schema)
                raise ExtensionMisplaced(name, found_in, sql)
        return missing


def create_schema(connection: Connection, schema: SchemaName) -> None:
    """Create an empty schema; raises `SchemaExists` or `PermissionDenied`."""
    try:
        with translated_errors(connection):
            connection.exec_driver_sql(_sql.create_schema(schema))
    except DBAPIError as exc:
        if sqlstate(exc) == _DUPLICATE_SCHEMA:
            raise SchemaExists(schema) from exc
        raise


def schema_exists(connection: Connection, schema: str) -> bool:
    """Tell whether the schema is on the database."""
    return bool(connection.execute(text(_sql.SCHEMA_EXISTS), {"schema": schema}).scalar())


def query_schemas(
    connection: Connection, namespace: str | None = None, hidden: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Yield the customers' schemas, sorted; with a namespace, those of that namespace."""
    prefix = None if namespace is None else f"{namespace}-"
    for name in connection.execute(text(_sql.LIST_SCHEMAS), {"prefix": prefix}).scalars():
        if name not in hidden:
            yield name


def lock(connection: Connection, name: str) -> None:
    """Wait for the advisory lock of this name, and hold it to the transaction's end."""
    connection.execute(text(_sql.LOCK), {"key": lock_key(name)})


def lock_key(name: str) -> int:
    """Return the number of the advisory lock of this name: 64 bits, signed."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"onegov_orm").digest()
    return int.from_bytes(digest, signed=True)


@contextmanager
def translated_errors(connection: Connection, administrator: str | None = None) -> Iterator[None]:
    """Raise `PermissionDenied`, with the SQL for an administrator, for a missing right."""
    try:
        yield
    except DBAPIError as exc:
        if sqlstate(exc) != _DENIED:
            raise
        url = connection.engine.url
        grant = _sql.grant_create_on_database(url.database or "", url.username or "")
        raise PermissionDenied(str(exc.orig), administrator or grant) from exc


def sqlstate(error: DBAPIError) -> str | None:
    """Return the SQLSTATE of a driver's error; each driver has its own attribute for it."""
    original = error.orig
    return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)


def _inventory_row(connection: Connection, schema: str) -> Any:
    return connection.execute(text(_sql.INVENTORY), {"schema": schema}).one_or_none()


def _unavailable(connection: Connection, extension: str) -> ExtensionUnavailable:
    number = int(connection.exec_driver_sql(_sql.SERVER_VERSION).scalar_one())
    version = number // 10_000
    package = _PACKAGES.get(extension, "postgresql-{version}").format(version=version)
    return ExtensionUnavailable(extension, version, package)
