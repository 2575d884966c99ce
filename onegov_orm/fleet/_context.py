"""What the parts of a fleet have in common: its manager, its connections, its customers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy.exc import ProgrammingError

from onegov_orm._prelude import Prelude
from onegov_orm.errors import ConfigurationError
from onegov_orm.fleet.registry import Customer, read_customers
from onegov_orm.marks import LIVE, State
from onegov_orm.names import SchemaName, hidden_kind
from onegov_orm.provisioning import sqlstate
from onegov_orm.session_manager import SessionManager

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine


#: ``undefined_table`` and ``invalid_schema_name``: it was dropped or renamed a moment ago.
_GONE: Final = ("42P01", "3F000")
_TRIES: Final = 5

T = TypeVar("T")


class FleetContext:
    """Gives the connections on which something is done to a schema, or asked of all.

    :param manager: a `SessionManager`, whose bases, options and engine are used.

    Raises `ConfigurationError` for anything else.
    """

    def __init__(self, manager: SessionManager) -> None:
        if not isinstance(manager, SessionManager):
            raise ConfigurationError(
                f"a fleet is cared for through a SessionManager, not a {type(manager).__name__}: "
                "use AsyncFleet for an AsyncSessionManager"
            )
        self.manager = manager

    @property
    def engine(self) -> Engine:
        """The manager's engine."""
        return self.manager.engine

    @contextmanager
    def connected(
        self,
        schema: str | None = None,
        *,
        lock_timeout_seconds: float | None = None,
        isolation_level: str = "READ COMMITTED",
    ) -> Iterator[Connection]:
        """Give a connection that has not begun a transaction yet.

        With a schema, each of its transactions works there, in suspended and hidden ones too.
        Without, no customer is on the search path. A lock timeout holds in transactions only.
        """
        options: dict[str, Any] = {"isolation_level": isolation_level}
        if schema is not None:
            name = schema if type(schema) is SchemaName else self.manager.parse_schema(schema)
            options["schema"] = name
            options["prelude"] = self._prelude(name, lock_timeout_seconds)
        with self.engine.connect() as connection:
            yield connection.execution_options(**options)

    def customers(
        self,
        *,
        namespace: str | None = None,
        states: Collection[State] = LIVE,
        names: Iterable[str] | None = None,
    ) -> list[Customer]:
        """Return the marked schemas in these states, sorted by name; asks once.

        With names, exactly these: raises `SchemaNotFound` and `ForeignSchema`.
        """
        wanted = None if names is None else [self._parse(name) for name in names]
        with self.connected() as connection:
            return read_customers(connection, namespace, states, wanted)

    def ask(
        self, names: Iterable[str] | None, question: Callable[[list[Customer]], T]
    ) -> tuple[list[Customer], T]:
        """Return customers, and what is asked of them; again if one went away meanwhile."""
        wanted = None if names is None else list(names)
        tries = _TRIES
        while True:
            tries -= 1
            customers = self.customers(names=wanted)
            try:
                return customers, question(customers)
            except ProgrammingError as exc:
                if sqlstate(exc) not in _GONE or not tries:
                    raise

    def customer(self, schema: str, states: Collection[State] = LIVE) -> Customer:
        """Return one customer; raises `SchemaNotFound` and `ForeignSchema`."""
        return self.customers(names=[schema], states=states)[0]

    def _parse(self, name: str) -> SchemaName:
        if type(name) is SchemaName and hidden_kind(name):
            return name
        return self.manager.parse_schema(name)

    def _prelude(self, schema: SchemaName, lock_timeout_seconds: float | None) -> Prelude:
        settings: tuple[tuple[str, str], ...] = ()
        if lock_timeout_seconds is not None:
            settings = (("lock_timeout", f"{int(lock_timeout_seconds * 1000)}ms"),)
        extensions_schema = self.manager.provisioner.extensions_schema
        return Prelude(schema, extensions_schema, must_exist=False, settings=settings)
