"""What is done to schemas on the database: synchronous, for both managers.

The asynchronous manager runs these functions in a greenlet, where SQLAlchemy awaits the driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from onegov_orm._marking import find_mark, mark_as_new, refuse_suspended
from onegov_orm.errors import SchemaExists
from onegov_orm.names import SchemaName, hidden_schema
from onegov_orm.provisioning import create_schema, query_schemas, schema_exists

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm._manager import BaseSessionManager


class SchemaOperations:
    """Asks for schemas, and makes them."""

    def __init__(self, manager: BaseSessionManager) -> None:
        self._manager: Any = manager
        self._provisioner = manager.provisioner

    def is_admitted(self, schema: SchemaName, create: bool) -> bool:
        """Tell whether the schema may become current without asking the server."""
        self._manager.listen_to_bases()
        if self._provisioner.is_known(schema):
            return True
        return not create and schema in self._provisioner.found_schemas

    def admit(self, schema: SchemaName, create: bool) -> None:
        """Make sure that the schema may become current; raises `SchemaNotFound`."""
        if create:
            self.ensure(schema)
        elif not self.is_admitted(schema, create):
            with self._connected() as connection:
                refuse_suspended(schema, find_mark(connection, schema))
            self._provisioner.found_schemas.add(schema)
            self._appeared(schema)

    def list(self, namespace: str | None) -> list[str]:
        """Return the customers' schemas, sorted."""
        with self._connected() as connection:
            return list(query_schemas(connection, namespace, self._manager.reserved))

    def is_found(self, schema: str) -> bool:
        """Tell whether the schema exists."""
        with self._connected() as connection:
            return schema_exists(connection, schema)

    def create(self, schema: str, validate: bool) -> None:
        """Create an empty schema; raises `SchemaExists` or `PermissionDenied`."""
        name = self._parse(schema, validate)
        options = self._provisioner.options(name)
        with self._connected(**options) as connection, connection.begin():
            create_schema(connection, name)
            if self._manager.is_valid_schema(name):
                mark_as_new(connection, name)
        self._appeared(name)

    def create_if_not_exists(self, schema: str, validate: bool) -> None:
        """Create an empty schema, unless it exists."""
        name = self._parse(schema, validate)
        if not self.is_found(name):
            with suppress(SchemaExists):
                self.create(name, validate)

    def ensure(self, schema: str) -> None:
        """Make sure that the schema exists, with all it has to hold."""
        name = self._manager.parse_schema(schema)
        if not self.is_admitted(name, create=True):
            with self._connected(**self._provisioner.options(name)) as connection:
                self._provisioner.ensure(connection, name)
            self._appeared(name)

    def make(self, schema: str) -> None:
        """Make a new schema, with all it has to hold; raises `SchemaExists`."""
        name = self._manager.parse_schema(schema)
        self._manager.listen_to_bases()
        with self._connected(**self._provisioner.options(name)) as connection:
            self._provisioner.ensure(connection, name, must_be_new=True)
        self._appeared(name)

    def make_spare(self) -> SchemaName:
        """Make a schema ahead for a new customer, and return its hidden name."""
        self._manager.listen_to_bases()
        name = hidden_schema("spare")
        with self._connected(**self._provisioner.options(name)) as connection:
            self._provisioner.make_spare(connection, name)
        return name

    def create_required_extensions(self) -> None:
        """Make sure that the required extensions exist."""
        with self._connected(isolation_level="READ COMMITTED") as connection:
            self._provisioner.ensure_extensions(connection)

    def _appeared(self, schema: SchemaName) -> None:
        replicas = self._manager.replicas
        if replicas is not None:
            replicas.admit(schema)

    def _parse(self, schema: str, validate: bool) -> SchemaName:
        if validate:
            return self._manager.parse_schema(schema)  # type: ignore[no-any-return]
        return SchemaName(schema, reserved=())

    @contextmanager
    def _connected(self, **options: Any) -> Iterator[Connection]:
        with self._manager.sync_engine.connect() as connection:
            yield connection.execution_options(**options)
