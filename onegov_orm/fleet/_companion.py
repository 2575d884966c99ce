"""A synchronous manager beside an asynchronous one, for what runs in threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from onegov_orm._operations import SchemaOperations
from onegov_orm.session_manager import SessionManager

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from onegov_orm._manager import BaseSessionManager

#: What asyncpg's URLs have that libpq knows by another name, or not at all.
_RENAMED: Final = {"ssl": "sslmode", "timeout": "connect_timeout"}
_UNKNOWN_TO_LIBPQ: Final = (
    "command_timeout",
    "direct_tls",
    "max_cacheable_statement_size",
    "max_cached_statement_lifetime",
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
    "server_settings",
    "statement_cache_size",
    "target_session_attrs",
)


def companion(manager: BaseSessionManager, **options: Any) -> SessionManager:
    """Return a synchronous manager of the same database, models and schemas.

    That is the manager itself if it is synchronous. What one of them learns of schemas, the
    other knows. The companion opens no connection before it is used.
    """
    if isinstance(manager, SessionManager):
        return manager
    provisioner = manager.provisioner
    twin = SessionManager(
        _synchronous(manager.url),
        manager.bases[0],
        _engine_config(manager),
        transaction_manager=None,
        isolation_level=manager.isolation_level,
        reserved=manager.reserved,
        extensions_schema=provisioner.extensions_schema,
        shared_schema=provisioner.shared_schema,
        pooler=manager.pooler,
        **options,
    )
    twin.bases = manager.bases
    twin.required_extensions = manager.required_extensions
    twin.provisioner = provisioner
    twin.migrations, twin.upgrades = manager.migrations, manager.upgrades
    twin._operations = SchemaOperations(twin)
    return twin


def _synchronous(url: URL) -> URL:
    if url.get_driver_name() != "asyncpg":
        return url
    query = {
        _RENAMED.get(name, name): value
        for name, value in url.query.items()
        if name not in _UNKNOWN_TO_LIBPQ
    }
    return url.set(drivername="postgresql+psycopg2", query=query)


def _engine_config(manager: BaseSessionManager) -> dict[str, Any]:
    """Return what was set for the engine, without what only the other driver understands."""
    config = manager.engine_config
    if manager.url.get_driver_name() == "asyncpg":
        return {name: value for name, value in config.items() if name != "connect_args"}
    return config
