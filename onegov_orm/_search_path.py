"""Tells the driver connection which schema a SQLAlchemy connection works in.

The schema is the execution option ``schema`` of the engine that a session is bound to, so
it travels on SQLAlchemy's `Connection` object. At the start of a transaction it is bound to
the driver's connection, and `SchemaState` decides what has to be sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from sqlalchemy.engine import Connection
from sqlalchemy.engine.base import OptionEngine

from onegov_orm._connection import SchemaState
from onegov_orm._pool import driver_connection
from onegov_orm._prelude import Prelude, prelude_of
from onegov_orm.errors import ConfigurationError
from onegov_orm.names import SchemaName

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine, RootTransaction, TwoPhaseTransaction
    from sqlalchemy.pool import PoolProxiedConnection

    from onegov_orm._pool import Holders


#: Options that say what a session's transactions may do.
_ACCESS: Final = ("access", "prelude")


class SchemaAwareConnection(Connection):
    """SQLAlchemy's connection, whose transactions begin with the prelude of its schema.

    Events of the engine would do the same at twice the price: an engine that has a single
    listener makes each connection build its own dispatcher, and each statement ask it six
    times.
    """

    events: ClassVar[SearchPathEvents]

    def begin(self) -> RootTransaction:
        """Begin a transaction in the schema."""
        transaction = super().begin()
        self.events.begin(self)
        return transaction

    def begin_twophase(self, xid: Any = None) -> TwoPhaseTransaction:
        """Begin a two-phase transaction in the schema."""
        transaction = super().begin_twophase(xid)
        self.events.begin(self)
        return transaction

    def execution_options(self, **opt: Any) -> Connection:
        """Set options for the connection."""
        self.events.set_connection_execution_options(self, opt)
        return super().execution_options(**opt)


class Route(Protocol):
    """Where the connections of an engine come from instead of its own pool."""

    def connect(self, schema: str | None) -> PoolProxiedConnection | None:
        """Return a connection for the schema, None for one of the engine's own pool."""


class RoutedEngine(OptionEngine):
    """An engine derived for one schema, whose execution option ``route`` leads elsewhere."""

    def raw_connection(self) -> PoolProxiedConnection:
        """Return a connection from the pool that is the right one now."""
        options = self._execution_options
        route: Route | None = options.get("route")
        connection = None if route is None else route.connect(options.get("schema"))
        return super().raw_connection() if connection is None else connection


class SearchPathEvents:
    """Binds the schema's prelude to the transactions of an engine."""

    def __init__(self, extensions_schema: str, holders: Holders) -> None:
        self.extensions_schema = extensions_schema
        self.holders = holders

    def attach(self, engine: Engine) -> None:
        """Give the engine, and all that are derived from it later, its class of connections."""
        connection_class = type("Connection", (SchemaAwareConnection,), {"events": self})
        attributes = {"_connection_cls": connection_class}
        bases = _routed(engine._option_cls)
        option_class: Any = type("OptionEngine", bases, attributes)
        option_class._option_cls = option_class
        engine._connection_cls = connection_class
        engine._option_cls = option_class

    def begin(self, connection: Connection) -> None:
        """Bind the schema of the connection to the transaction that begins."""
        self._bind(connection, connection._execution_options)

    def set_connection_execution_options(
        self, connection: Connection, options: dict[str, Any]
    ) -> None:
        """Bind the new schema, if it changes in the middle of a transaction.

        A connection of a session stays in the session's schema.
        """
        own = connection.engine.get_execution_options()
        if "schema" in options and own.get("schema", options["schema"]) != options["schema"]:
            raise ConfigurationError(
                f'a connection for the schema "{own["schema"]}" can\'t be used for '
                f'"{options["schema"]}": use a session or an engine of that schema'
            )
        if "schema" in own and any(
            name in options and options[name] != own.get(name) for name in _ACCESS
        ):
            raise ConfigurationError(
                "a session's connection can't read and write otherwise than its session: use "
                "mgr.session() or mgr.reader()"
            )
        if connection.in_transaction() and ("schema" in options or "prelude" in options):
            self._bind(connection, {**connection.get_execution_options(), **options})

    def _bind(self, connection: Connection, options: Any) -> None:
        proxy = connection.connection
        state: Any = proxy.dbapi_connection
        if not isinstance(state, SchemaState):
            state = driver_connection(state)
        if not isinstance(state, SchemaState):
            raise ConfigurationError(
                "this connection was opened before its engine was registered with a manager: "
                "call engine.dispose() before register_engine(engine)"
            )
        prelude = self._prelude(options)
        state.bind(prelude)
        if prelude is not None:
            self.holders.name_schema(proxy._connection_record, prelude.schema)

    def _prelude(self, options: Any) -> Prelude | None:
        prelude = options.get("prelude")
        if prelude is not None:
            return prelude  # type: ignore[no-any-return]
        schema = options.get("schema")
        if schema is None:
            return None
        if type(schema) is not SchemaName:
            schema = SchemaName(schema, reserved=())
        return prelude_of(schema, self.extensions_schema, options.get("access"))


def _routed(option_class: Any) -> tuple[type[Any], ...]:
    """Return the bases of an option class that can lead elsewhere."""
    if issubclass(option_class, RoutedEngine):
        return (option_class,)
    return (RoutedEngine,) if option_class is OptionEngine else (RoutedEngine, option_class)
