"""One PostgreSQL schema per customer, on SQLAlchemy 2."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from onegov_orm.changes import Change, ChangeSet, Kind
    from onegov_orm.errors import (
        BulkChangeNotSupported,
        ConfigurationError,
        CrossSchemaError,
        ExtensionMisplaced,
        ExtensionUnavailable,
        ForeignConnection,
        ForeignSchema,
        InvalidSchemaName,
        MigrationError,
        NoCurrentSchema,
        OrmError,
        PermissionDenied,
        PoolerRestriction,
        PoolExhausted,
        ReadOnlySession,
        SchemaExists,
        SchemaNotFound,
        SchemaSuspended,
        SearchPathMoved,
        UnsupportedDatabase,
        UpgradeFailed,
    )
    from onegov_orm.names import SchemaName
    from onegov_orm.provisioning import query_schemas
    from onegov_orm.replicas import ReplicaStatus
    from onegov_orm.session_manager import SessionManager
    from onegov_orm.session_manager_async import AsyncSessionManager

__all__ = [
    "AsyncSessionManager",
    "BulkChangeNotSupported",
    "Change",
    "ChangeSet",
    "ConfigurationError",
    "CrossSchemaError",
    "ExtensionMisplaced",
    "ExtensionUnavailable",
    "ForeignConnection",
    "ForeignSchema",
    "InvalidSchemaName",
    "Kind",
    "MigrationError",
    "NoCurrentSchema",
    "OrmError",
    "PermissionDenied",
    "PoolExhausted",
    "PoolerRestriction",
    "ReadOnlySession",
    "ReplicaStatus",
    "SchemaExists",
    "SchemaName",
    "SchemaNotFound",
    "SchemaSuspended",
    "SearchPathMoved",
    "SessionManager",
    "UnsupportedDatabase",
    "UpgradeFailed",
    "query_schemas",
]


#: The modules of these names, each loaded when it is first asked for: what shows the help of the
#: command line needs no SQLAlchemy, and who has no asynchronous code no greenlet.
_HOMES: Final = {
    "AsyncSessionManager": "session_manager_async",
    "BulkChangeNotSupported": "errors",
    "Change": "changes",
    "ChangeSet": "changes",
    "ConfigurationError": "errors",
    "CrossSchemaError": "errors",
    "ExtensionMisplaced": "errors",
    "ExtensionUnavailable": "errors",
    "ForeignConnection": "errors",
    "ForeignSchema": "errors",
    "InvalidSchemaName": "errors",
    "MigrationError": "errors",
    "Kind": "changes",
    "NoCurrentSchema": "errors",
    "OrmError": "errors",
    "PermissionDenied": "errors",
    "PoolExhausted": "errors",
    "PoolerRestriction": "errors",
    "ReadOnlySession": "errors",
    "ReplicaStatus": "replicas",
    "SchemaExists": "errors",
    "SchemaName": "names",
    "SchemaNotFound": "errors",
    "SchemaSuspended": "errors",
    "SearchPathMoved": "errors",
    "SessionManager": "session_manager",
    "UnsupportedDatabase": "errors",
    "UpgradeFailed": "errors",
    "query_schemas": "provisioning",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"onegov_orm.{home}"), name)
    except ImportError as exc:
        if name != "AsyncSessionManager":
            raise
        raise ImportError(f"{exc}\nHere: pip install 'onegov_orm[asyncio]'") from exc
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
