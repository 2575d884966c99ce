"""Makes the engine of a manager, such that no configuration can undo its guarantees."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, get_args

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool, SingletonThreadPool, StaticPool

from onegov_orm import _sql
from onegov_orm._pool import Holders, driver_connection, naming_pool_class
from onegov_orm.errors import ConfigurationError, UnsupportedDatabase
from onegov_orm.typing import IsolationLevel

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

#: Levels below this one have to be asked for by name.
DEFAULT_ISOLATION_LEVEL: Final = "SERIALIZABLE"

OLDEST_SERVER_VERSION: Final = 140_000

#: Five connections are kept, ten more are opened in a rush, none grows older than an hour.
DEFAULT_POOL: Final[Mapping[str, Any]] = {
    "poolclass": QueuePool,
    "pool_size": 5,
    "max_overflow": 10,
    "pool_timeout": 30,
    "pool_recycle": 3600,
}

#: Longer than this, the server waits for no transaction; in milliseconds.
_IDLE_IN_TRANSACTION_TIMEOUT: Final = "3600000"

#: How the hosts begin that are this machine, sockets included.
_NEAR: Final = ("/", "@", "localhost", "127.", "::1")

#: What an engine's configuration can't set, and where to say it instead.
_OWNED_BY_MANAGER: Final = {
    "isolation_level": "use the manager's option isolation_level",
    "creator": "the manager makes the connections itself",
    "async_creator": "the manager makes the connections itself",
    "pool": "use pool_config with a poolclass",
    "strategy": "there is only one kind of engine",
}

_POOL_SETTINGS: Final = (
    "poolclass",
    "pool_size",
    "max_overflow",
    "pool_timeout",
    "pool_recycle",
    "pool_pre_ping",
    "pool_use_lifo",
    "pool_reset_on_return",
    "pool_logging_name",
    "pool_events",
)

#: These hand a connection that is in use to somebody else.
_SHARING_POOLS: Final = (SingletonThreadPool, StaticPool)

_SYNC_DRIVERS: Final = ("psycopg2", "psycopg")


def parse_dsn(dsn: str | URL) -> URL:
    """Return the URL; a plain ``postgresql://`` or ``postgres://`` means psycopg2.

    Raises `UnsupportedDatabase` for another database or driver, and `ConfigurationError`
    for what is no URL.
    """
    try:
        url = make_url(dsn)
    except (ArgumentError, ValueError) as exc:
        raise ConfigurationError(
            f"the dsn is not a URL such as postgresql://host/db: {exc}"
        ) from exc
    backend, _, driver = url.drivername.partition("+")
    if backend not in ("postgresql", "postgres"):
        raise UnsupportedDatabase(
            f"only PostgreSQL has the schemas this is about, the dsn names {backend}"
        )
    driver = driver or "psycopg2"
    if driver == "asyncpg":
        raise UnsupportedDatabase("asyncpg is asynchronous, and this manager is not")
    if driver not in _SYNC_DRIVERS:
        raise UnsupportedDatabase(
            f"the driver {driver} is not supported, use one of {', '.join(_SYNC_DRIVERS)}"
        )
    return url.set(drivername=f"postgresql+{driver}")


class ConnectEvents:
    """Opens an engine's connections: of the right class, with the right settings."""

    def __init__(self, extensions_schema: str, strict: bool, pipeline: bool | None) -> None:
        self._strict = strict
        self._pipeline = pipeline
        # The last one counts: the caller's options can change the first, and not the second.
        self._defaults = _sql.startup_options(
            {"idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION_TIMEOUT}
        )
        self._fixed = _sql.startup_options(
            {"search_path": f"{_sql.NEUTRAL_PATH},{extensions_schema}"}
        )

    def attach(self, engine: Engine) -> None:
        """Listen to the engine."""
        event.listen(engine, "do_connect", self.do_connect)
        event.listen(engine, "connect", self.connect)

    def do_connect(self, dialect: Any, record: Any, cargs: Any, cparams: dict[str, Any]) -> Any:
        """Open a connection."""
        cparams = dict(cparams)
        given = cparams.get("options", os.environ.get("PGOPTIONS", ""))
        cparams["options"] = f"{self._defaults} {given} {self._fixed}"
        return connection_class(dialect.driver, cparams)(*cargs, **cparams)

    def connect(self, dbapi_connection: Any, record: Any) -> None:
        """Refuse a server that is too old."""
        connection = driver_connection(dbapi_connection)
        info = connection.info
        connection.strict = self._strict
        connection.pipelines = self._pipelines(info.host)
        version = info.server_version
        if version < OLDEST_SERVER_VERSION:
            connection.close()
            raise UnsupportedDatabase(
                f"PostgreSQL {version // 10_000} is too old, "
                f"{OLDEST_SERVER_VERSION // 10_000} is the oldest that is supported"
            )

    def _pipelines(self, host: str | None) -> bool:
        """Tell whether a saved round trip is worth a pipeline: over a network it is."""
        if self._pipeline is not None:
            return self._pipeline
        return host is not None and not host.startswith(_NEAR)


def connection_class(driver: str, cparams: Mapping[str, Any]) -> Any:
    """Return what opens a connection with this driver."""
    # Each driver is an extra of its own, so that only the one in use is imported.
    if driver == "psycopg":
        from onegov_orm._driver_psycopg import SchemaConnection

        return SchemaConnection.connect
    from onegov_orm._driver_psycopg2 import connect

    return connect


def make_engine(
    url: URL,
    engine_config: Mapping[str, Any] | None,
    pool_config: Mapping[str, Any] | None,
    isolation_level: IsolationLevel,
    holders: Holders,
) -> Engine:
    """Make an engine; the caller's dictionaries are not changed."""
    config = dict(engine_config or {})
    refuse_owned(config)
    pool = _pool_settings(config, pool_config)
    pool_class = pool.pop("poolclass")
    if issubclass(pool_class, _SHARING_POOLS):
        raise ConfigurationError(
            f"{pool_class.__name__} can't be the poolclass: it hands one connection to several "
            "sessions at once, which may be of different schemas"
        )
    if isolation_level not in get_args(IsolationLevel):
        raise ConfigurationError(
            f"{isolation_level!r} can't be the isolation_level, use one of "
            f"{', '.join(get_args(IsolationLevel))}"
        )
    config.setdefault("use_native_hstore", False)
    return create_engine(
        url,
        **config,
        **pool,
        poolclass=naming_pool_class(pool_class, holders),
        isolation_level=isolation_level,
    )


def _pool_settings(
    config: dict[str, Any], pool_config: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Take the pool's settings out of the engine's, and complete them with the defaults.

    A pool_config, or another class of pools, replaces the defaults.
    """
    own: dict[str, Any] = {name: config.pop(name) for name in _POOL_SETTINGS if name in config}
    given: Mapping[str, Any] = pool_config or {}
    refuse_owned(given)
    keeps_defaults = pool_config is None and "poolclass" not in own
    settings = {**(DEFAULT_POOL if keeps_defaults else {}), **own, **given}
    settings["poolclass"] = settings.get("poolclass") or QueuePool
    return settings


def refuse_owned(config: Mapping[str, Any]) -> None:
    """Raise `ConfigurationError` for settings that belong to the manager."""
    for name, advice in _OWNED_BY_MANAGER.items():
        if name in config:
            raise ConfigurationError(f"{name} can't be set in a configuration: {advice}")
    for name in ("schema", "prelude", "isolation_level", "schema_translate_map"):
        if name in (config.get("execution_options") or {}):
            raise ConfigurationError(
                f"{name} can't be set in execution_options: the manager sets it for each session"
            )
