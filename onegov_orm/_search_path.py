"""Tells the driver connection which schema a SQLAlchemy connection works in.

The schema is the execution option ``schema`` of the engine that a session is bound to, so
it travels on SQLAlchemy's `Connection` object. At the start of a transaction it is bound to
the driver's connection, and `SchemaState` decides what has to be sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from onegov_orm._connection import SchemaState
from onegov_orm._pool import driver_connection
from onegov_orm._prelude import Prelude, prelude_of
from onegov_orm.errors import ConfigurationError
from onegov_orm.names import EXTENSIONS_SCHEMA, SchemaName

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine


class SearchPathEvents:
    """Listens to an engine, and binds the schema's prelude to its transactions."""

    def __init__(self, extensions_schema: str = EXTENSIONS_SCHEMA) -> None:
        self.extensions_schema = extensions_schema

    def attach(self, engine: Engine) -> None:
        """Listen to the engine and to all that are derived from it."""
        event.listen(engine, "begin", self.begin)
        event.listen(engine, "begin_twophase", self.begin_twophase)
        event.listen(
            engine, "set_connection_execution_options", self.set_connection_execution_options
        )

    def begin(self, connection: Connection) -> None:
        """Bind the schema of the connection to the transaction that begins."""
        self._bind(connection, connection.get_execution_options())

    def begin_twophase(self, connection: Connection, xid: Any) -> None:
        """Bind the schema of the connection to the two-phase transaction that begins."""
        self.begin(connection)

    def set_connection_execution_options(
        self, connection: Connection, options: dict[str, Any]
    ) -> None:
        """Bind the new schema, if it changes in the middle of a transaction.

        A connection of a session stays in the session's schema.
        """
        if "schema" in options:
            own = connection.engine.get_execution_options().get("schema", options["schema"])
            if own != options["schema"]:
                raise ConfigurationError(
                    f'a connection for the schema "{own}" can\'t be used for '
                    f'"{options["schema"]}": use a session or an engine of that schema'
                )
        if connection.in_transaction() and ("schema" in options or "prelude" in options):
            self._bind(connection, {**connection.get_execution_options(), **options})

    def _bind(self, connection: Connection, options: Any) -> None:
        state = driver_connection(connection.connection.dbapi_connection)
        if not isinstance(state, SchemaState):
            raise ConfigurationError(
                "this connection was opened before its engine was registered with a manager: "
                "call engine.dispose() before register_engine(engine)"
            )
        state.bind(self._prelude(options))

    def _prelude(self, options: Any) -> Prelude | None:
        prelude = options.get("prelude")
        if prelude is not None:
            return prelude  # type: ignore[no-any-return]
        schema = options.get("schema")
        if schema is None:
            return None
        return prelude_of(SchemaName(schema, reserved=()), self.extensions_schema)
