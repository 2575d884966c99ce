"""Schemas that are made ahead, so that a new customer waits for a rename only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from onegov_orm import _marking, _sql
from onegov_orm._ddl import run_script
from onegov_orm.errors import ConfigurationError
from onegov_orm.fleet._moving import move, working_on
from onegov_orm.fleet._purging import Purger
from onegov_orm.marks import State
from onegov_orm.names import SchemaName, found_schema, hidden_schema
from onegov_orm.provisioning import lock, schema_exists

if TYPE_CHECKING:
    from onegov_orm.fleet._context import FleetContext

#: How long one who makes spares waits for another one.
_PATIENCE: Final = "60s"


@dataclass(frozen=True, slots=True)
class Spare:
    """A schema that is ready for a new customer.

    ``is_current`` tells whether it is made of what the models, the migrations, the upgrade
    tasks and the seeds are by now; another one is not given to anybody.
    """

    schema: SchemaName
    created: datetime | None
    is_current: bool

    def as_dict(self) -> dict[str, Any]:
        """Return what is known, as JSON has it."""
        return {
            "schema": str(self.schema),
            "created": self.created.isoformat() if self.created else None,
            "is_current": self.is_current,
        }


def spares(context: FleetContext) -> list[Spare]:
    """Return the spare schemas, sorted by name."""
    context.manager.listen_to_bases()
    with context.connected() as connection, connection.begin():
        found = _marking.spares(connection)
        made_of = context.manager.provisioner.make_of_spares(connection.dialect)
    return [
        Spare(found_schema(name), mark.created, mark.made_of == made_of)
        for name, mark in found.items()
    ]


def keep_spares(context: FleetContext) -> int:
    """Drop the spares that are made of something older; return how many are left."""
    found = spares(context)
    for spare in found:
        if not spare.is_current:
            _discard(context, spare.schema)
    return sum(spare.is_current for spare in found)


def fill_spares(context: FleetContext, count: int) -> int:
    """Have so many spares, made of what there is by now; return how many had to be made."""
    if count < 0:
        raise ConfigurationError(f"there can't be {count} spares")
    with _alone(context):
        missing = max(0, count - keep_spares(context))
        for _ in range(missing):
            context.manager._operations.make_spare()
    return missing


@contextmanager
def _alone(context: FleetContext) -> Iterator[None]:
    """Let only one at a time make spares, so that there are not twice as many."""
    with context.connected() as connection, connection.begin():
        run_script(connection, [_sql.set_local("lock_timeout", _PATIENCE)])
        lock(connection, "spares")
        yield


def _discard(context: FleetContext, spare: SchemaName) -> None:
    """Drop a spare, unless somebody of another make takes it just now."""
    doomed = hidden_schema("trash")
    with working_on(context, spare) as connection:
        is_free = connection.execute(text(_sql.TRY_LOCK), {"name": spare}).scalar()
        if not is_free or not schema_exists(connection, spare):
            return
        mark = _marking.read_mark(connection, spare)
        move(connection, spare, doomed)
        purging = mark.changed_to(State.PURGING, name=str(spare), made_of="")
        _marking.write_mark(connection, doomed, purging)
    Purger(context).work(doomed)
