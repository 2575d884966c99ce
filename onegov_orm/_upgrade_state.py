"""Which upgrade tasks a schema has seen: the table ``upgrades`` in the schema itself.

The table stands outside of the application's bases, and is made when it is first needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Text, select, text
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateTable

from onegov_orm._upgrade_tasks import Modules, UpgradeTask, load_tasks
from onegov_orm.errors import ConfigurationError
from onegov_orm.marks import now
from onegov_orm.provisioning import sqlstate

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.names import SchemaName

#: ``undefined_column`` and ``wrong_object_type``.
_OF_SOMEBODY_ELSE: Final = ("42703", "42809")


class StateBase(DeclarativeBase):
    """A base of the library's own."""


class UpgradeState(StateBase):
    """The tasks of one module that a schema has seen, each with the moment in UTC."""

    __tablename__ = "upgrades"

    module: Mapped[str] = mapped_column(Text, primary_key=True)
    executed_tasks: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=text("'{}'"))

    def executed(self, task: str) -> datetime | None:
        """Return when the task of this name was executed, None if it was not."""
        moment = (self.executed_tasks or {}).get(task)
        return None if moment is None else datetime.fromisoformat(moment)


_TABLE: Final[Any] = UpgradeState.__table__


class UpgradeStamp:
    """Marks all tasks as executed in a new schema, which is made as they would leave it.

    The modules are loaded when the first schema is made.
    """

    def __init__(self, modules: Modules = None) -> None:
        self._modules = modules if modules is None or isinstance(modules, str) else list(modules)
        self._known_tasks: tuple[UpgradeTask, ...] | None = None

    def __call__(self, connection: Connection, schema: SchemaName) -> None:
        """Record the tasks; without any, there is no table either."""
        tasks = self._tasks
        if tasks:
            make_state(connection)
            record(connection, schema, dict.fromkeys(tasks, now()))

    def identity(self) -> str:
        """Return the keys of the tasks."""
        return "\n".join(sorted(task.key for task in self._tasks))

    @property
    def _tasks(self) -> tuple[UpgradeTask, ...]:
        if self._known_tasks is None:
            tasks = load_tasks(self._modules)
            self._known_tasks = tuple(task for task in tasks if not task.always_run)
        return self._known_tasks


def upgrade_stamp(modules: Modules = None) -> UpgradeStamp:
    """Return what marks the tasks of these modules as executed in a new schema.

    None stands for the modules of the entry points. Raises `ConfigurationError`, when the
    first schema is made, for modules and tasks that are not right.
    """
    return UpgradeStamp(modules)


def make_state(connection: Connection) -> None:
    """Make the table, unless it is there."""
    connection.execute(CreateTable(_TABLE, if_not_exists=True))


def executed_tasks(connection: Connection, schema: SchemaName) -> set[str]:
    """Return the keys of the tasks that the schema has seen; the table has to be there."""
    with _refusing_others(schema):
        rows = connection.execute(select(_TABLE.c.module, _TABLE.c.executed_tasks)).all()
    return {f"{module}:{name}" for module, names in rows for name in names}


def record(
    connection: Connection, schema: SchemaName, moments: Mapping[UpgradeTask, datetime]
) -> None:
    """Note that these tasks were executed, and when; the table has to be there."""
    modules: dict[str, dict[str, str]] = defaultdict(dict)
    for task, moment in moments.items():
        modules[task.module][task.name] = moment.astimezone(UTC).isoformat()
    rows = [{"module": module, "executed_tasks": names} for module, names in modules.items()]
    statement = insert(_TABLE)
    merged = _TABLE.c.executed_tasks.op("||")(statement.excluded.executed_tasks)
    statement = statement.on_conflict_do_update(
        index_elements=[_TABLE.c.module], set_={"executed_tasks": merged}
    )
    with _refusing_others(schema):
        connection.execute(statement, rows)


@contextmanager
def _refusing_others(schema: str) -> Iterator[None]:
    """Raise `ConfigurationError` for a table of this name that is somebody else's."""
    try:
        yield
    except DBAPIError as exc:
        if sqlstate(exc) not in _OF_SOMEBODY_ELSE:
            raise
        raise foreign_table(schema) from exc


def foreign_table(schema: str) -> ConfigurationError:
    """Return the error for a table of this name that is somebody else's."""
    return ConfigurationError(
        f'the table "{_TABLE.name}" of the schema "{schema}" is not the one that upgrade tasks '
        "are recorded in: the application's own table has to have another name"
    )
