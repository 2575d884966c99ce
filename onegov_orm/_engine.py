"""Makes the engine of a manager, such that no configuration can undo its guarantees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, get_args

from sqlalchemy import create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import (
    AsyncAdaptedQueuePool,
    NullPool,
    QueuePool,
    SingletonThreadPool,
    StaticPool,
)

from onegov_orm._pool import Holders, naming_pool_class
from onegov_orm.errors import ConfigurationError, UnsupportedDatabase
from onegov_orm.typing import IsolationLevel

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

#: Levels below this one have to be asked for by name.
DEFAULT_ISOLATION_LEVEL: Final = "SERIALIZABLE"

#: Five connections are kept, ten more are opened in a rush, none grows older than an hour.
DEFAULT_POOL: Final[Mapping[str, Any]] = {
    "poolclass": QueuePool,
    "pool_size": 5,
    "max_overflow": 10,
    "pool_timeout": 30,
    "pool_recycle": 3600,
}

#: The pooler keeps the connections.
EXTERNAL_POOL: Final[Mapping[str, Any]] = {"poolclass": NullPool}

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

#: The drivers of synchronous and of asynchronous managers; the first one is the default.
_DRIVERS: Final = {False: ("psycopg2", "psycopg"), True: ("asyncpg", "psycopg")}

#: A pool that belongs to somebody else, between the process and the server.
EXTERNAL: Final = "external"


def parse_dsn(dsn: str | URL, is_async: bool = False) -> URL:
    """Return the URL; a plain ``postgresql://`` or ``postgres://`` means the default driver.

    That is psycopg2, or asyncpg where the manager is asynchronous. Raises
    `UnsupportedDatabase` for another database or driver, and `ConfigurationError` for what is
    no URL.
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
    drivers = _DRIVERS[is_async]
    driver = (driver.removesuffix("_async") if is_async else driver) or drivers[0]
    if driver not in drivers:
        reason = "is not supported"
        if driver.removesuffix("_async") in (*_DRIVERS[False], *_DRIVERS[True]):
            manager = "SessionManager" if is_async else "AsyncSessionManager"
            reason = f"needs the {manager}"
        raise UnsupportedDatabase(f"the driver {driver} {reason}, use one of {', '.join(drivers)}")
    return url.set(drivername=f"postgresql+{driver}")


def make_engine(
    url: URL,
    engine_config: Mapping[str, Any] | None,
    pool_config: Mapping[str, Any] | None,
    isolation_level: IsolationLevel,
    holders: Holders,
    *,
    is_async: bool = False,
    pooler: str | None = None,
) -> Engine:
    """Make an engine, a synchronous one; the caller's dictionaries are not changed."""
    config = dict(engine_config or {})
    refuse_owned(config)
    if pooler not in (None, EXTERNAL):
        raise ConfigurationError(f"pooler is {EXTERNAL!r} or None, not {pooler!r}")
    pool = _pool_settings(config, pool_config, is_async, pooler)
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
    if url.get_driver_name() != "asyncpg":
        config.setdefault("use_native_hstore", False)
    config |= pool
    config["poolclass"] = naming_pool_class(pool_class, holders)
    config["isolation_level"] = isolation_level
    with _named_extras(url.get_driver_name(), is_async):
        if is_async:
            # Needs greenlet, which who has no asynchronous code may not have.
            from sqlalchemy.ext.asyncio import create_async_engine

            return create_async_engine(url, **config).sync_engine
        return create_engine(url, **config)


@contextmanager
def _named_extras(driver: str, is_async: bool) -> Iterator[None]:
    """Tell which extra brings a module that is not installed."""
    try:
        yield
    except ModuleNotFoundError as exc:
        extras = f"{driver},asyncio" if is_async and driver == "psycopg" else driver
        raise ConfigurationError(
            f"{exc.name} is not installed: pip install 'onegov_orm[{extras}]'"
        ) from exc


def _pool_settings(
    config: dict[str, Any],
    pool_config: Mapping[str, Any] | None,
    is_async: bool,
    pooler: str | None,
) -> dict[str, Any]:
    """Take the pool's settings out of the engine's, and complete them with the defaults.

    A pool_config, or another class of pools, replaces the defaults.
    """
    own: dict[str, Any] = {name: config.pop(name) for name in _POOL_SETTINGS if name in config}
    given: Mapping[str, Any] = pool_config or {}
    refuse_owned(given)
    keeps_defaults = pool_config is None and "poolclass" not in own
    defaults = EXTERNAL_POOL if pooler else DEFAULT_POOL
    settings = {**(defaults if keeps_defaults else {}), **own, **given}
    settings["poolclass"] = settings.get("poolclass") or QueuePool
    if is_async and settings["poolclass"] is QueuePool:
        settings["poolclass"] = AsyncAdaptedQueuePool
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
