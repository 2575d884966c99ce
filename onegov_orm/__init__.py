"""One PostgreSQL schema per customer, on SQLAlchemy 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onegov_orm.changes import Change, ChangeSet, Kind
from onegov_orm.errors import (
    BulkChangeNotSupported,
    ConfigurationError,
    CrossSchemaError,
    ExtensionMisplaced,
    ExtensionUnavailable,
    ForeignConnection,
    InvalidSchemaName,
    NoCurrentSchema,
    OrmError,
    PermissionDenied,
    PoolerRestriction,
    PoolExhausted,
    ReadOnlySession,
    SchemaExists,
    SchemaNotFound,
    SearchPathMoved,
    UnsupportedDatabase,
)
from onegov_orm.names import SchemaName
from onegov_orm.provisioning import query_schemas
from onegov_orm.replicas import ReplicaStatus
from onegov_orm.session_manager import SessionManager

if TYPE_CHECKING:
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
    "InvalidSchemaName",
    "Kind",
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
    "SearchPathMoved",
    "SessionManager",
    "UnsupportedDatabase",
    "query_schemas",
]


def __getattr__(name: str) -> Any:
    # SQLAlchemy's asyncio needs greenlet, which who has no asynchronous code may not have.
    if name == "AsyncSessionManager":
        try:
            from onegov_orm.session_manager_async import AsyncSessionManager
        except ImportError as exc:
            raise ImportError(f"{exc}\nHere: pip install 'onegov_orm[asyncio]'") from exc
        return AsyncSessionManager
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
