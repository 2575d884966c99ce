"""Opens the connections of an engine: of the right class, with the right settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

from onegov_orm import _sql
from onegov_orm._differences import Differences
from onegov_orm._pool import driver_connection
from onegov_orm._standing import DEFAULT_MAX_SCHEMAS, Standing
from onegov_orm.errors import ConfigurationError, UnsupportedDatabase

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

OLDEST_SERVER_VERSION: Final = 140_000

#: Longer than this, the server waits for no transaction; in milliseconds.
_IDLE_IN_TRANSACTION_TIMEOUT: Final = "3600000"

#: How the hosts begin that are this machine, sockets included.
_NEAR: Final = ("/", "@", "localhost", "127.", "::1")

#: How long to wait for a replica that does not answer; the primary is there in its place.
_REPLICA_TIMEOUT_SECONDS: Final = 3

#: What PgBouncer answers to settings that it can't have.
_REFUSED_BY_POOLER: Final = "unsupported startup parameter"
_SAY_SO: Final = "make the manager with pooler='external'"
_IGNORED: Final = (
    "the settings with which the connection was opened did not reach the server: there is a "
    f"pooler in between that ignores them, {_SAY_SO}"
)


@dataclass(frozen=True)
class Kind:
    """What kind of connections an engine has."""

    extensions_schema: str
    strict: bool = False
    #: Whether psycopg 3 saves a round trip by a pipeline; None decides by the distance.
    pipeline: bool | None = None
    #: Whether there is a pooler in between, which lends them for a transaction at a time.
    is_external: bool = False
    is_replica: bool = False
    #: After how many customers a connection is closed.
    max_schemas: int = DEFAULT_MAX_SCHEMAS
    #: Is told of schemas that are not there any more.
    forget: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if self.max_schemas < 1:
            raise ConfigurationError(
                f"max_schemas_per_connection has to be at least 1, not {self.max_schemas}"
            )


class ConnectEvents:
    """Opens an engine's connections."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        # The caller's settings can change the first, and not the second.
        self._defaults = {"idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION_TIMEOUT}
        self._fixed = {"search_path": f"{_sql.NEUTRAL_PATH},{kind.extensions_schema}"}
        self._external_opening = (
            _sql.external_opening(kind.extensions_schema, _IDLE_IN_TRANSACTION_TIMEOUT)
            if kind.is_external
            else None
        )
        self._differences = Differences()
        self._dialect: Any = None

    def attach(self, engine: Engine) -> None:
        """Listen to the engine."""
        # SQLAlchemy asks the first connection for its schema: then ours tells something.
        if engine.dialect.default_schema_name is None:
            self._dialect = engine.dialect
        event.listen(engine, "do_connect", self.do_connect)
        event.listen(engine, "connect", self.connect)

    def do_connect(self, dialect: Any, record: Any, cargs: Any, cparams: dict[str, Any]) -> Any:
        """Open a connection; raises `ConfigurationError` if there is a pooler in the way."""
        try:
            return self._open(dialect, cargs, dict(cparams))
        except Exception as exc:
            if _REFUSED_BY_POOLER not in str(exc):
                raise
            raise ConfigurationError(self._advice(str(exc))) from exc

    def _open(self, dialect: Any, cargs: Any, cparams: dict[str, Any]) -> Any:
        if dialect.driver == "asyncpg":
            self._prepare_asyncpg(cparams)
            return dialect.loaded_dbapi.connect(*cargs, **cparams)
        if not self._kind.is_external:
            given = cparams.get("options", os.environ.get("PGOPTIONS", ""))
            defaults, fixed = map(_sql.startup_options, (self._defaults, self._fixed))
            cparams["options"] = f"{defaults} {given} {fixed}"
        if self._kind.is_replica:
            cparams.setdefault("connect_timeout", _REPLICA_TIMEOUT_SECONDS)
        if dialect.is_async:
            _refuse_own_classes(cparams)
            cparams["async_creator_fn"] = connector("psycopg_async")
            return dialect.loaded_dbapi.connect(*cargs, **cparams)
        return connector(dialect.driver)(*cargs, **cparams)

    def connect(self, dbapi_connection: Any, record: Any) -> None:
        """Tell the connection what it is; refuse a server that is too old."""
        connection, kind = driver_connection(dbapi_connection), self._kind
        info = connection.info
        connection.strict = kind.strict
        connection.standing = Standing(kind.max_schemas, kind.forget)
        connection.pipelines = self._pipelines(info.host)
        if kind.is_replica:
            connection.cleanse = _sql.STANDBY_CLEANSE
        if kind.is_external:
            connection.expect_others(self._external_opening)
        connection.share(self._differences)
        if not kind.is_external and self._was_ignored(connection):
            connection.hang_up()
            raise ConfigurationError(_IGNORED)
        version = info.server_version
        if version < OLDEST_SERVER_VERSION:
            connection.hang_up()
            raise UnsupportedDatabase(
                f"PostgreSQL {version // 10_000} is too old, "
                f"{OLDEST_SERVER_VERSION // 10_000} is the oldest that is supported"
            )

    def _was_ignored(self, connection: Any) -> bool:
        """Tell whether what was set while connecting did not reach the server."""
        path = connection.reported_at_first
        if path is not None:
            return bool(path != self._fixed["search_path"])
        found = None if self._dialect is None else self._dialect.default_schema_name
        return found not in (None, _sql.NEUTRAL_PATH)

    def _advice(self, refusal: str) -> str:
        if not self._kind.is_external:
            return f"{refusal.strip()}: there is a pooler in between, {_SAY_SO}"
        return (
            f"{refusal.strip()}: a pooler does not take settings when a client connects; take "
            "them out of connect_args, the dsn, and PGOPTIONS"
        )

    def _prepare_asyncpg(self, cparams: dict[str, Any]) -> None:
        """Set what asyncpg is to be called with."""
        _refuse_own_classes(cparams)
        given = _translated(cparams)
        cparams["server_settings"] = (
            given if self._kind.is_external else {**self._defaults, **given, **self._fixed}
        )
        if self._kind.is_replica:
            cparams.setdefault("timeout", _REPLICA_TIMEOUT_SECONDS)
        # Only who uses asyncpg has it.
        from onegov_orm._driver_asyncpg import SchemaConnection

        cparams["connection_class"] = SchemaConnection
        # Neither of these knows schemas; the connection keeps the statements itself.
        cparams["prepared_statement_cache_size"] = 0
        cparams["statement_cache_size"] = 0

    def _pipelines(self, host: str | None) -> bool:
        """Tell whether a saved round trip is worth a pipeline: over a network it is."""
        if self._kind.pipeline is not None:
            return self._kind.pipeline
        return host is not None and not host.startswith(_NEAR)


def _refuse_own_classes(cparams: Mapping[str, Any]) -> None:
    if "connection_class" in cparams or "async_creator_fn" in cparams:
        raise ConfigurationError("the manager has the driver's connections of a class of its own")


def _translated(cparams: dict[str, Any]) -> dict[str, str]:
    """Give libpq's parameters, as URLs have them, the names that asyncpg has for them.

    Returns the settings that are sent to the server while connecting.
    """
    settings = dict(cparams.get("server_settings") or {})
    if "sslmode" in cparams:
        cparams.setdefault("ssl", cparams.pop("sslmode"))
    if "connect_timeout" in cparams:
        cparams.setdefault("timeout", float(cparams.pop("connect_timeout")))
    if "application_name" in cparams:
        settings.setdefault("application_name", cparams.pop("application_name"))
    return settings


def connector(driver: str) -> Callable[..., Any]:
    """Return what opens a connection with this driver."""
    # Each driver is an extra of its own, so that only the one in use is imported.
    if driver == "psycopg":
        from onegov_orm._driver_psycopg import SchemaConnection

        return SchemaConnection.connect
    if driver == "psycopg_async":
        from onegov_orm._driver_psycopg_async import SchemaAsyncConnection

        return SchemaAsyncConnection.connect
    from onegov_orm._driver_psycopg2 import connect

    return connect
