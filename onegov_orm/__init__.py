"""One PostgreSQL schema per customer, on SQLAlchemy 2."""

from __future__ import annotations

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
from onegov_orm.session_manager import SessionManager

__all__ = [
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
    "SchemaExists",
    "SchemaName",
    "SchemaNotFound",
    "SearchPathMoved",
    "SessionManager",
    "UnsupportedDatabase",
    "query_schemas",
]
