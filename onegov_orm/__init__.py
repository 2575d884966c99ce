"""One PostgreSQL schema per customer, on SQLAlchemy 2."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from onegov_orm.changes import Change, ChangeSet, Kind
    from onegov_orm.errors import (
        BulkChangeNotSupported,
        ConfigurationError,
        CopyFailed,
        CrossSchemaError,
        DumpDamaged,
        ExtensionMisplaced,
        ExtensionUnavailable,
        ForeignConnection,
        ForeignSchema,
        InvalidSchemaName,
        InvalidUUID,
        MigrationError,
        ModelNotFound,
        MutableDefault,
        NaiveDatetime,
        NoCurrentLocale,
        NoCurrentSchema,
        NotCacheable,
        NotInTrash,
        NotSerializable,
        OrmError,
        PermissionDenied,
        PointsBack,
        PoolerRestriction,
        PoolExhausted,
        ReadOnlySession,
        SchemaBusy,
        SchemaExists,
        SchemaNeeded,
        SchemaNotFound,
        SchemaSuspended,
        SearchPathMoved,
        SelectableError,
        StaleValue,
        TooManyLocks,
        TreeError,
        UncloneableObject,
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
    "CopyFailed",
    "CrossSchemaError",
    "DumpDamaged",
    "ExtensionMisplaced",
    "ExtensionUnavailable",
    "ForeignConnection",
    "ForeignSchema",
    "InvalidSchemaName",
    "InvalidUUID",
    "Kind",
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
    "ReplicaStatus",
    "SchemaBusy",
    "SchemaExists",
    "SchemaName",
    "SchemaNeeded",
    "SchemaNotFound",
    "SchemaSuspended",
    "SearchPathMoved",
    "SelectableError",
    "SessionManager",
    "StaleValue",
    "TooManyLocks",
    "TreeError",
    "UncloneableObject",
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
    "CopyFailed": "errors",
    "CrossSchemaError": "errors",
    "DumpDamaged": "errors",
    "ExtensionMisplaced": "errors",
    "ExtensionUnavailable": "errors",
    "ForeignConnection": "errors",
    "ForeignSchema": "errors",
    "InvalidSchemaName": "errors",
    "InvalidUUID": "errors",
    "Kind": "changes",
    "MigrationError": "errors",
    "ModelNotFound": "errors",
    "MutableDefault": "errors",
    "NaiveDatetime": "errors",
    "NoCurrentLocale": "errors",
    "NoCurrentSchema": "errors",
    "NotCacheable": "errors",
    "NotInTrash": "errors",
    "NotSerializable": "errors",
    "OrmError": "errors",
    "PermissionDenied": "errors",
    "PointsBack": "errors",
    "PoolExhausted": "errors",
    "PoolerRestriction": "errors",
    "ReadOnlySession": "errors",
    "ReplicaStatus": "replicas",
    "SchemaBusy": "errors",
    "SchemaExists": "errors",
    "SchemaName": "names",
    "SchemaNeeded": "errors",
    "SchemaNotFound": "errors",
    "SchemaSuspended": "errors",
    "SearchPathMoved": "errors",
    "SelectableError": "errors",
    "SessionManager": "session_manager",
    "StaleValue": "errors",
    "TooManyLocks": "errors",
    "TreeError": "errors",
    "UncloneableObject": "errors",
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
