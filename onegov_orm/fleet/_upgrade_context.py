"""What an upgrade task gets: one schema, one transaction, and ways to look and to change."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, MetaData, exists, inspect, select, table, text
from sqlalchemy.sql import ClauseElement

from onegov_orm.errors import ConfigurationError
from onegov_orm.fleet import _sql_upgrades
from onegov_orm.fleet._upgrade_columns import ColumnAddition
from onegov_orm.fleet._upgrade_enums import EnumChange, enum_values

if TYPE_CHECKING:
    from alembic.operations import Operations
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session

    from onegov_orm.names import SchemaName
    from onegov_orm.session_manager import SessionManager


class UpgradeContext:
    """The schema that a task works in, its connection and its session.

    Both are in the transaction in which all tasks of the schema run: it is committed when
    the last one is done. Names without a schema are those of this schema.
    """

    def __init__(
        self, manager: SessionManager, connection: Connection, schema: SchemaName
    ) -> None:
        self._manager = manager
        self._has_session = False
        #: The connection of the schema, in its transaction.
        self.connection = connection
        #: The name of the schema.
        self.schema = schema

    @cached_property
    def session(self) -> Session:
        """An ORM session in the schema; it is flushed after the task, and sends no signals.

        Its `commit` is a flush: the transaction is not the session's.
        """
        session: Session = self._manager.session_factory(
            bind=self.connection,
            info={"schema": self.schema},
            join_transaction_mode="rollback_only",
            twophase=False,
        )
        session.joins_transaction = False  # type: ignore[attr-defined]
        self._has_session = True
        return session

    @cached_property
    def operations(self) -> Operations:
        """Alembic's operations for this connection, such as ``operations.add_column``.

        An object of this context's own, unlike ``alembic.op``. Raises `ConfigurationError`
        without Alembic, which the extra ``migrations`` brings.
        """
        try:
            # Alembic is an extra that costs time to import, and many tasks do without it.
            from alembic.migration import MigrationContext
            from alembic.operations import Operations
        except ModuleNotFoundError as exc:
            raise ConfigurationError(
                f"{exc.name} is not installed: pip install 'onegov_orm[migrations]'"
            ) from exc
        return Operations(MigrationContext.configure(self.connection))

    def flush(self) -> None:
        """Write what the session has pending."""
        if self._has_session:
            self.session.flush()

    def close(self) -> None:
        """Let go of the session's objects; the connection stays as it is."""
        if self._has_session:
            self.session.close()

    # -- looking

    def has_table(self, table: str) -> bool:
        """Tell whether the schema has this table."""
        return self._ask(_sql_upgrades.HAS_TABLE, name=table)

    def has_column(self, table: str, column: str) -> bool:
        """Tell whether the table has this column; without the table it has none."""
        return self._ask(_sql_upgrades.HAS_COLUMN, table=table, name=column)

    def has_enum(self, enum: str) -> bool:
        """Tell whether the schema has this enum."""
        return enum_values(self.connection, self.schema, enum) is not None

    def has_constraint(self, table: str, constraint: str) -> bool:
        """Tell whether the table has a constraint of this name, of whatever kind."""
        return self._ask(_sql_upgrades.HAS_CONSTRAINT, table=table, name=constraint)

    def is_empty_table(self, table_name: str) -> bool:
        """Tell whether the table has no rows."""
        self.flush()
        rows = select(1).select_from(table(table_name, schema=self.schema))
        return not self.connection.execute(select(exists(rows))).scalar()

    # -- changing

    def add_column_with_defaults(
        self, table: str | type[Any], column: Column[Any], default: Any
    ) -> bool:
        """Add a column with a value for each row there is; tell whether it was missing.

        The default is a value, an SQL expression, or a function: of the row for the name of
        a table, of the object for a mapped class. Functions read the rows one by one.
        A column that takes no nulls takes none from then on.
        """
        name = table if isinstance(table, str) else str(inspect(table).local_table.name)
        if self.has_column(name, column.name):
            return False
        self.flush()
        addition = ColumnAddition(
            self.connection, self.schema, name, column, self._metadata_of(table)
        )
        addition.add()
        if not callable(default) or isinstance(default, ClauseElement):
            addition.fill(default)
        elif isinstance(table, str):
            addition.fill_rows(default)
        else:
            addition.fill_objects(self.session, table, default)
        addition.finish()
        return True

    def update_enum_values(
        self, enum_name: str, values: Iterable[str], *, rewrite: bool = True
    ) -> bool:
        """Give the enum these values, in this order; tell whether there was anything to do.

        The enum is made anew, and the tables that have such columns are rewritten: only then
        can new values be used in the same transaction. With ``rewrite=False`` values are added
        and nothing is rewritten; no task of the same run can use them then.
        Raises `OrmError` if rows have a value that would be removed.
        """
        self.flush()
        change = EnumChange(self.connection, self.schema, enum_name)
        return change.change(list(values), rewrite=rewrite)

    def _ask(self, sql: str, **names: str) -> bool:
        parameters = {"schema": self.schema, **names}
        return bool(self.connection.execute(text(sql), parameters).scalar())

    def _metadata_of(self, table: str | type[Any]) -> MetaData:
        """Return the metadata that the table belongs to, or may belong to."""
        if not isinstance(table, str):
            mapper: Any = inspect(table)
            metadata: MetaData = mapper.local_table.metadata
            return metadata
        metadatas: list[MetaData] = [base.metadata for base in self._manager.bases]
        return next((each for each in metadatas if table in each.tables), metadatas[0])
