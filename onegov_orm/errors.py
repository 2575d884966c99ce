"""Every error of the library, in one tree.

::

    OrmError
    ├── ConfigurationError (ValueError)
    ├── InvalidSchemaName (ValueError)
    ├── NoCurrentSchema (LookupError)
    ├── NoCurrentLocale (LookupError)
    ├── SchemaNotFound (LookupError)
    │   └── NotInTrash
    ├── SchemaExists
    ├── SchemaBusy
    ├── SchemaNeeded
    ├── SchemaSuspended
    ├── ForeignSchema
    ├── MigrationError
    ├── UncloneableObject
    ├── PointsBack
    ├── CopyFailed
    ├── TooManyLocks
    ├── DumpDamaged
    ├── UnsupportedDatabase
    ├── ExtensionUnavailable
    ├── ExtensionMisplaced
    ├── PermissionDenied
    ├── CrossSchemaError
    ├── SearchPathMoved
    ├── ForeignConnection
    ├── ReadOnlySession
    ├── PoolerRestriction
    ├── BulkChangeNotSupported
    ├── ModelNotFound (LookupError)
    ├── MutableDefault (ValueError)
    ├── NaiveDatetime (ValueError)
    ├── NotSerializable (TypeError)
    ├── InvalidUUID (ValueError)
    ├── StaleValue
    ├── NotCacheable (TypeError)
    ├── UpgradeFailed
    ├── SelectableError (ValueError)
    ├── TreeError (ValueError)
    └── PoolExhausted (sqlalchemy.exc.TimeoutError)

An error carries its data as attributes, and its message says how to mend it.
Errors of the server reach the caller as SQLAlchemy's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeoutError

from onegov_orm._model_errors import (
    InvalidUUID,
    ModelNotFound,
    MutableDefault,
    NaiveDatetime,
    NoCurrentLocale,
    NotCacheable,
    NotSerializable,
    SelectableError,
    StaleValue,
    TreeError,
)
from onegov_orm._orm_error import OrmError, shown

if TYPE_CHECKING:
    from onegov_orm.typing import Holder

__all__ = [
    "BulkChangeNotSupported",
    "ConfigurationError",
    "CopyFailed",
    "CrossSchemaError",
    "DumpDamaged",
    "ExtensionMisplaced",
    "ExtensionUnavailable",
    "ForeignConnection",
    "ForeignSchema",
    "InvalidSchemaName",
    "InvalidUUID",
    "MigrationError",
    "ModelNotFound",
    "MutableDefault",
    "NaiveDatetime",
    "NoCurrentLocale",
    "NoCurrentSchema",
    "NotCacheable",
    "NotInTrash",
    "NotSerializable",
    "OrmError",
    "PermissionDenied",
    "PointsBack",
    "PoolExhausted",
    "PoolerRestriction",
    "ReadOnlySession",
    "SchemaBusy",
    "SchemaExists",
    "SchemaNeeded",
    "SchemaNotFound",
    "SchemaSuspended",
    "SearchPathMoved",
    "SelectableError",
    "StaleValue",
    "TooManyLocks",
    "TreeError",
    "UncloneableObject",
    "UnsupportedDatabase",
    "UpgradeFailed",
]


class ConfigurationError(OrmError, ValueError):
    """The manager was given options that contradict what it guarantees."""


class InvalidSchemaName(OrmError, ValueError):
    """The text is not a valid schema name."""

    def __init__(self, name: object, rule: str) -> None:
        self.name = name
        self.rule = rule
        super().__init__(f"{shown(name)} is not a valid schema name: {rule}")


class NoCurrentSchema(OrmError, LookupError):
    """No schema is current in this thread or task: call set_current_schema(name) first.

    An `AsyncSessionManager` has it awaited, as ``await mgr.set_current_schema(name)``.
    """


class SchemaNotFound(OrmError, LookupError):
    """The schema does not exist on the database."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        super().__init__(
            f'the schema "{schema}" does not exist on the database: it was not made yet, or was '
            "dropped or renamed; set_current_schema(name) makes it, unless create=False"
        )


class NotInTrash(SchemaNotFound):
    """No dropped schema has this name."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        OrmError.__init__(
            self,
            f'nothing in the trash is called "{schema}", and nothing that was called so: see '
            "Fleet.trash() or `onegov-orm trash` for what is there",
        )


class SchemaExists(OrmError):
    """The schema exists on the database already."""

    def __init__(
        self, schema: str, advice: str = "use create_schema_if_not_exists() if that is fine"
    ) -> None:
        self.schema = schema
        super().__init__(f'the schema "{schema}" exists already: {advice}')


class SchemaBusy(OrmError):
    """Others work in the schema for longer than could be waited for.

    ``holders`` tells of each what people read: its process on the server, what it calls
    itself, and since when it has been in its transaction.
    """

    def __init__(self, schema: str, holders: Sequence[str]) -> None:
        self.schema = schema
        self.holders = tuple(holders)
        lines = "".join(f"\n  {holder}" for holder in holders)
        super().__init__(
            f'others work in the schema "{schema}", and nothing was changed: let their '
            "transactions end and try again, or end them with pg_terminate_backend()"
            + (f". These are on the server:{lines}" if lines else "")
        )


class SchemaNeeded(OrmError):
    """Something outside of the schema depends on what is in it."""

    def __init__(self, schema: str, dependents: Sequence[str]) -> None:
        self.schema = schema
        self.dependents = tuple(dependents)
        shown = ", ".join(self.dependents[:10])
        more = f" and {len(self.dependents) - 10} more" if len(self.dependents) > 10 else ""
        super().__init__(
            f'the schema "{schema}" can\'t be dropped for good, for others need what is in it: '
            f"{shown}{more}. Drop these first, if nobody misses them"
        )


class SchemaSuspended(OrmError):
    """The customer is suspended: its sessions are refused until it is resumed."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        super().__init__(
            f'the schema "{schema}" is suspended, and its sessions are refused: '
            f"resume it with Fleet.resume() or `onegov-orm resume {schema}`"
        )


class ForeignSchema(OrmError):
    """The schema was not made by this library, and is left alone."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        super().__init__(
            f'the schema "{schema}" carries no mark of onegov_orm, and is left alone: if it is '
            f"a customer's, adopt it with Fleet.adopt() or `onegov-orm adopt {schema}`"
        )


class MigrationError(OrmError):
    """The migrations can't be run as asked for; nothing was touched."""


class UncloneableObject(OrmError):
    """The schema holds what can't be copied with it."""

    def __init__(self, objects: Sequence[tuple[str, str]]) -> None:
        self.objects = tuple(objects)
        listed = ", ".join(f"{kind} {name}" for kind, name in self.objects)
        super().__init__(
            f"the schema can't be copied, since it holds what would be lost: {listed}. "
            "Move that into a schema of its own, or drop it"
        )


class PointsBack(OrmError):
    """A copy of the schema would use what is in the original."""

    def __init__(self, schema: str, places: Sequence[str]) -> None:
        self.schema = schema
        self.places = tuple(places)
        super().__init__(
            f'a copy of the schema "{schema}" would still use the original: '
            f"{', '.join(self.places)}. Write the names there without a schema"
        )


class CopyFailed(OrmError):
    """The copy of a schema could not be made, and nothing is left of it."""

    def __init__(self, schema: str, what: str, reason: str) -> None:
        self.schema = schema
        self.what = what
        self.reason = reason.strip()
        super().__init__(f'{what} could not be made in the schema "{schema}": {self.reason}')


class TooManyLocks(OrmError):
    """The server has no room for the locks that it takes to copy a schema at once."""

    def __init__(self, schema: str, needed: int, available: int, setting: int) -> None:
        self.schema = schema
        self.needed = needed
        self.available = available
        super().__init__(
            f'copying the schema "{schema}" takes about {needed} locks, and the server has room '
            f"for {available}: set max_locks_per_transaction to {setting} or more, and restart it"
        )


class DumpDamaged(OrmError):
    """The file is not a dump of a schema, or is damaged; nothing was restored."""


class UnsupportedDatabase(OrmError):
    """Only PostgreSQL 14 and newer is supported."""


class ExtensionUnavailable(OrmError):
    """A required extension is not installed on the server's machine."""

    def __init__(self, extension: str, server_version: int, package: str) -> None:
        self.extension = extension
        self.server_version = server_version
        self.package = package
        super().__init__(
            f'the extension "{extension}" is not installed on this PostgreSQL {server_version} '
            f"server: install the Debian package {package} on the server's machine, "
            "or take the extension out of required_extensions"
        )


class ExtensionMisplaced(OrmError):
    """A required extension lives in a schema that sessions do not see."""

    def __init__(self, extension: str, found_in: str, sql: str) -> None:
        self.extension = extension
        self.found_in = found_in
        self.sql = sql
        super().__init__(
            f'the extension "{extension}" lives in the schema "{found_in}", '
            f"which is on no session's search path: run {sql}"
        )


class PermissionDenied(OrmError):
    """The database user lacks a right."""

    def __init__(self, reason: str, sql: str) -> None:
        self.sql = sql
        super().__init__(f"{reason.strip()}. An administrator has to run: {sql}")


class CrossSchemaError(OrmError):
    """An object of one schema was given to a session of another."""

    def __init__(self, obj: object, owner: str, session: str) -> None:
        self.owner = owner
        self.session = session
        super().__init__(
            f'a {type(obj).__name__} of schema "{owner}" was given to a session of schema '
            f'"{session}": to copy it on purpose, detach it and call '
            "sqlalchemy.orm.make_transient() on it first"
        )


class SearchPathMoved(OrmError):
    """Somebody moved the search path of a session in the middle of its transaction."""

    def __init__(self, expected: str, found: str | None) -> None:
        self.expected = expected
        self.found = found
        super().__init__(
            f"the search path should be {expected} but is {found}: "
            "find the SET or set_config that moved it, or use a session of that other schema"
        )


class ForeignConnection(OrmError):
    """The connection was opened before the fork and belongs to the parent process.

    In a forked child, call ``mgr.session()`` anew: it opens a connection of the child's own.
    """


class ReadOnlySession(OrmError):
    """A reading session can't write: use ``mgr.session()``, or a block without ``readonly``."""


class PoolerRestriction(OrmError):
    """Behind an external pooler, nothing can outlive its transaction."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what} can't be used behind an external pooler, which may give each transaction "
            "another of the server's connections: use a manager without pooler='external', "
            "connected straight to the server, for this"
        )


class BulkChangeNotSupported(OrmError):
    """The rows that a bulk change touches can't be announced to the subscribers."""


class UpgradeFailed(OrmError):
    """An upgrade task failed, and its schema is as it was before."""

    def __init__(self, task: str, reason: str, sqlstate: str | None = None) -> None:
        self.task = task
        #: That of the server's error, which tells whether trying again may help.
        self.sqlstate = sqlstate
        super().__init__(f'the upgrade task "{task}" failed: {reason}')


class PoolExhausted(OrmError, SQLAlchemyTimeoutError):
    """All connections of the pool are in use."""

    def __init__(self, reason: str, holders: Sequence[Holder]) -> None:
        self.holders = tuple(holders)
        lines = [f"  {holder}" for holder in self.holders]
        super().__init__(
            f"{reason.strip()}\nThe connections are held by:\n"
            + ("\n".join(lines) or "  nobody that is known")
            + "\nLet sessions end sooner (commit, abort, or `with mgr.schema(...)`), or raise "
            "pool_size and max_overflow in pool_config."
        )
