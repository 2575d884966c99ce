"""Makes the schema of a new customer: all of it, or nothing.

What does I/O here takes a connection of SQLAlchemy's that is in a transaction of its own,
at ``READ COMMITTED``: under an advisory lock, each statement then sees what those who
had the lock before have committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy import MetaData, text
from sqlalchemy.exc import DBAPIError

from onegov_orm import _sql
from onegov_orm._ddl import Inventory, Script, inventory_of, scripts_of
from onegov_orm._extensions import Extension, unavailable
from onegov_orm._marking import (
    mark_as_filled,
    mark_as_new,
    refuse_suspended,
    take_spare,
    write_mark,
)
from onegov_orm._pool import driver_connection
from onegov_orm._prelude import Prelude
from onegov_orm.errors import (
    ExtensionMisplaced,
    PermissionDenied,
    SchemaExists,
)
from onegov_orm.marks import Mark, State
from onegov_orm.names import RESERVED, SchemaName, broken_rule

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Dialect

    from onegov_orm.signals import Signals
    from onegov_orm.typing import DeclarativeBase

_DENIED: Final = "42501"
#: ``duplicate_schema``, and ``unique_violation`` for one that is being made right now.
_DUPLICATES: Final = ("42P06", "23505")

#: How long a new schema waits for the locks of others. A thread that holds one of them itself,
#: because it wrote to a shared table, would otherwise wait for itself forever.
_LOCK_TIMEOUT: Final = "60s"


class Stamp(Protocol):
    """Notes in a new schema that it is up to date."""

    def __call__(self, connection: Connection, schema: SchemaName) -> None:
        """Write it."""

    def identity(self) -> str:
        """Return what would be written by now."""


class Plan:
    """What a schema has to hold, compiled for the tables that the bases have by now."""

    def __init__(
        self, bases: Sequence[DeclarativeBase], shared_schema: str, dialect: Dialect
    ) -> None:
        self.signature = _signature(bases)
        metadatas: list[MetaData] = list(dict.fromkeys(base.metadata for base in bases))
        self.scripts = scripts_of(metadatas, None, [shared_schema], dialect)
        self.shared_scripts = scripts_of(metadatas, shared_schema, [None], dialect)
        #: Whether this process made sure of the shared tables already.
        self.is_shared_made = not any(script.entries for script in self.shared_scripts)

    @property
    def text(self) -> str:
        """All statements that make a customer's schema."""
        return "\n".join(entry.sql for script in self.scripts for entry in script.entries)

    def is_complete_in(self, inventory: Inventory) -> bool:
        """Tell whether a customer's schema holds everything."""
        return _holds(inventory, self.scripts)

    def is_new_in(self, inventory: Inventory) -> bool:
        """Tell whether a customer's schema is missing, or empty and waiting for its tables."""
        if not any(script.tables for script in self.scripts):
            return not inventory.exists
        return all(script.is_absent_from(inventory) for script in self.scripts)


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
        #: Fill a new schema with what does not depend on its name.
        self.seeds: list[Callable[[Any], Any]] = []
        self.created_schemas: set[str] = set()
        #: Schemas that exist, whether they are complete or not.
        self.found_schemas: set[str] = set()
        self.created_extensions: set[str] = set()
        self._signals = signals
        self._plan: Plan | None = None

    def is_known(self, schema: str) -> bool:
        """Tell whether this process made sure of the schema already; asks nobody."""
        if self._plan is None or self._plan.signature != _signature(self.bases):
            self.created_schemas.clear()
            return False
        return schema in self.created_schemas and self.created_extensions.issuperset(
            self.required_extensions
        )

    def options(self, schema: SchemaName) -> dict[str, Any]:
        """Return the execution options of the connection that `ensure` needs."""
        settings = (("lock_timeout", _LOCK_TIMEOUT),)
        prelude = Prelude(schema, self.extensions_schema, must_exist=False, settings=settings)
        return {"schema": schema, "prelude": prelude, "isolation_level": "READ COMMITTED"}

    def ensure(
        self, connection: Connection, schema: SchemaName, *, must_be_new: bool = False
    ) -> None:
        """Make sure that the schema exists with all it has to hold.

        The connection has the execution options that `options` returns. Raises `SchemaExists`
        if it is there and has to be new.
        """
        plan = self._current_plan(connection.dialect)
        extensions = set(self.required_extensions)
        with connection.begin():
            self._ensure_extensions(connection, extensions)
            if not plan.is_shared_made:
                self._ensure_shared(connection, plan.shared_scripts)
            self._ensure_complete(connection, schema, plan, must_be_new)
        self.created_extensions |= extensions
        plan.is_shared_made = True
        # A table that another thread came with in the meantime is not in this plan.
        if self._plan is not None and self._plan.signature == plan.signature:
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

    def _current_plan(self, dialect: Dialect) -> Plan:
        plan = self._plan
        if plan is None or plan.signature != _signature(self.bases):
            plan = self._plan = Plan(self.bases, self.shared_schema, dialect)
        return plan

    def make_spare(self, connection: Connection, schema: SchemaName) -> None:
        """Make a schema ahead, which a new customer gets by a new name."""
        plan = self._current_plan(connection.dialect)
        with connection.begin():
            self._ensure_extensions(connection, set(self.required_extensions))
            if not plan.is_shared_made:
                self._ensure_shared(connection, plan.shared_scripts)
            _make(connection, schema, _inventory(connection, schema), plan.scripts)
            self._seed(connection)
            self._stamp(connection, schema)
            made_of = self._make_of(plan)
            write_mark(connection, schema, Mark.new(State.SPARE, made_of=made_of))

    def make_of_spares(self, dialect: Dialect) -> str:
        """Return what spares have to be made of by now, as `Mark.made_of` has it."""
        return self._make_of(self._current_plan(dialect))

    def _ensure_complete(
        self, connection: Connection, schema: SchemaName, plan: Plan, must_be_new: bool
    ) -> None:
        if not must_be_new and self._incomplete(connection, schema, plan) is None:
            return
        lock(connection, f"schema {schema}")
        inventory = self._incomplete(connection, schema, plan)
        if must_be_new and (inventory is None or inventory.exists):
            raise SchemaExists(schema, "choose another name")
        if inventory is not None:
            self._complete(connection, schema, plan, inventory)

    def _incomplete(
        self, connection: Connection, schema: SchemaName, plan: Plan
    ) -> Inventory | None:
        """Return what the schema holds, None if that is all; raises `SchemaSuspended`."""
        inventory = _inventory(connection, schema)
        refuse_suspended(schema, Mark.parse(inventory.comment))
        return None if plan.is_complete_in(inventory) else inventory

    def _complete(
        self, connection: Connection, schema: SchemaName, plan: Plan, inventory: Inventory
    ) -> None:
        is_new = plan.is_new_in(inventory)
        is_spare = not inventory.exists and take_spare(
            connection, schema, partial(self._make_of, plan)
        )
        if not is_spare:
            _make(connection, schema, inventory, plan.scripts)
        if not is_new:
            return
        if not is_spare:
            self._seed(connection)
        self._signals.send(self._signals.on_schema_init, schema, connection=connection)
        if not is_spare:
            self._stamp(connection, schema)
            if inventory.exists:
                mark_as_filled(connection, schema, inventory.comment)
            else:
                mark_as_new(connection, schema)

    def _seed(self, connection: Connection) -> None:
        for seed in self.seeds:
            self._signals.run(seed, connection)

    def _stamp(self, connection: Connection, schema: SchemaName) -> None:
        for stamp in self.stamps:
            stamp(connection, schema)

    def _make_of(self, plan: Plan) -> str:
        """Return a digest of all that goes into a new schema besides its name."""
        parts = [plan.text, *sorted(self.required_extensions)]
        parts += [f"{seed.__module__}.{seed.__qualname__}" for seed in self.seeds]
        parts += [stamp.identity() for stamp in self.stamps]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    def _ensure_shared(self, connection: Connection, scripts: Sequence[Script]) -> None:
        schema = self.shared_schema
        if _holds(_inventory(connection, schema), scripts):
            return
        lock(connection, f"shared schema {schema}")
        inventory = _inventory(connection, schema)
        if not _holds(inventory, scripts):
            _make(connection, schema, inventory, scripts)

    def _ensure_extensions(self, connection: Connection, wanted: set[str]) -> None:
        if not self._missing_extensions(connection, wanted):
            return
        lock(connection, "extensions")
        missing = self._missing_extensions(connection, wanted)
        if not missing:
            return
        schema = self.extensions_schema
        create = [_sql.create_schema_if_not_exists(schema)]
        create += [_sql.create_extension(extension.name, schema) for extension in missing]
        administrator = [*create, _sql.grant_usage_to_all(schema)]
        if not missing[0].can_create_schemas:
            administrator.append(_sql.grant_create_on_database(*_database_and_role(connection)))
        with translated_errors("; ".join(administrator)):
            for sql in create:
                connection.exec_driver_sql(sql)

    def _missing_extensions(self, connection: Connection, wanted: set[str]) -> list[Extension]:
        """Return the extensions to be created; raises for those that can't be."""
        names = sorted(wanted - self.created_extensions)
        if not names:
            return []
        rows = connection.execute(text(_sql.EXTENSIONS), {"names": names})
        extensions = [Extension(*row) for row in rows]
        for extension in extensions:
            self._check(connection, extension)
        return [extension for extension in extensions if extension.found_in is None]

    def _check(self, connection: Connection, extension: Extension) -> None:
        name, found_in, schema = extension.name, extension.found_in, self.extensions_schema
        if found_in is None:
            if not extension.is_available:
                raise unavailable(connection, name)
        elif found_in not in (schema, "pg_catalog"):
            raise ExtensionMisplaced(name, found_in, _sql.move_extension(name, schema))
        elif not extension.is_usable:
            raise PermissionDenied(
                f'permission denied for schema {found_in}, where the extension "{name}" lives',
                _sql.grant_usage_to_all(found_in),
            )


def create_schema(connection: Connection, schema: str) -> None:
    """Create an empty schema; raises `SchemaExists` or `PermissionDenied`."""
    administrator = _sql.grant_create_on_database(*_database_and_role(connection))
    try:
        with translated_errors(administrator):
            connection.exec_driver_sql(_sql.create_schema(schema))
    except DBAPIError as exc:
        if sqlstate(exc) in _DUPLICATES:
            raise SchemaExists(schema) from exc
        raise


def schema_exists(connection: Connection, schema: str) -> bool:
    """Tell whether the schema is on the database."""
    return bool(connection.execute(text(_sql.SCHEMA_EXISTS), {"schema": schema}).scalar())


def query_schemas(
    connection: Connection, namespace: str | None = None, hidden: Collection[str] = RESERVED
) -> Iterator[str]:
    """Yield the customers' schemas, sorted; with a namespace, those of that namespace.

    A schema that no customer can have, by its name or since it is hidden, is left out.
    """
    prefix = None if namespace is None else f"{namespace}-"
    for name in connection.execute(text(_sql.LIST_SCHEMAS), {"prefix": prefix}).scalars():
        if broken_rule(name, hidden) is None:
            yield name


def lock(connection: Connection, name: str) -> None:
    """Wait for the advisory lock of this name, and hold it to the transaction's end."""
    connection.execute(text(_sql.LOCK), {"key": lock_key(name)})


def lock_key(name: str) -> int:
    """Return the number of the advisory lock of this name: 64 bits, signed."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"onegov_orm").digest()
    return int.from_bytes(digest, signed=True)


@contextmanager
def translated_errors(administrator: str) -> Iterator[None]:
    """Raise `PermissionDenied`, with the SQL for an administrator, for a missing right."""
    try:
        yield
    except DBAPIError as exc:
        if sqlstate(exc) != _DENIED:
            raise
        raise PermissionDenied(str(exc.orig), administrator) from exc


def sqlstate(error: DBAPIError) -> str | None:
    """Return the SQLSTATE of a driver's error; each driver has its own attribute for it."""
    original = error.orig
    return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)


def _make(
    connection: Connection, schema: str, inventory: Inventory, scripts: Sequence[Script]
) -> None:
    if not inventory.exists:
        create_schema(connection, schema)
    elif not inventory.can_create:
        _, role = _database_and_role(connection)
        raise PermissionDenied(
            f"permission denied for schema {schema}, which lacks tables",
            _sql.grant_create_on_schema(schema, role),
        )
    for script in scripts:
        script.make(connection, inventory)


def _holds(inventory: Inventory, scripts: Sequence[Script]) -> bool:
    return inventory.exists and all(script.is_complete_in(inventory) for script in scripts)


def _signature(bases: Sequence[DeclarativeBase]) -> tuple[tuple[MetaData, int], ...]:
    return tuple((base.metadata, len(base.metadata.tables)) for base in bases)


def _inventory(connection: Connection, schema: str) -> Inventory:
    return inventory_of(connection.execute(text(_sql.INVENTORY), {"schema": schema}).one())


def _database_and_role(connection: Connection) -> tuple[str, str]:
    """Return whom the server knows us as: the URL may leave both to the driver."""
    info = getattr(driver_connection(connection.connection.dbapi_connection), "info", None)
    if info is not None:
        return info.dbname, info.user
    url = connection.engine.url
    return url.database or "", url.username or ""
