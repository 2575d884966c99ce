"""The life of one customer: made, renamed, suspended, dropped, brought back, gone for good."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from onegov_orm._marking import find_mark, read_comment, read_mark, write_mark
from onegov_orm.errors import ConfigurationError, NotInTrash, OrmError
from onegov_orm.fleet import _purging
from onegov_orm.fleet._moving import move, working_on
from onegov_orm.fleet._purging import Purger, refuse_needed
from onegov_orm.fleet._spares import Spare, fill_spares, keep_spares, spares
from onegov_orm.fleet.registry import Customer, read_overview
from onegov_orm.fleet.runner import OnResult, Report, run
from onegov_orm.marks import Mark, State, now
from onegov_orm.names import SchemaName, hidden_schema

if TYPE_CHECKING:
    from onegov_orm.fleet._context import FleetContext

__all__ = [
    "Spare",
    "Trashed",
    "adopt",
    "annotate",
    "create",
    "drop",
    "fill_spares",
    "keep_spares",
    "purge",
    "rename",
    "resume",
    "spares",
    "suspend",
    "trash",
    "undo",
]

#: The states of what is in the trash.
_DROPPED: Final = (State.TRASHED, State.PURGING)


@dataclass(frozen=True, slots=True)
class Trashed:
    """A dropped schema: what it is called in the trash, and what it was called before.

    One that is partial was being purged when that was interrupted: it can't come back.
    """

    schema: SchemaName
    name: str
    dropped: datetime | None
    size_bytes: int
    is_partial: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return what is known, as JSON has it."""
        return {
            "schema": str(self.schema),
            "name": self.name,
            "dropped": self.dropped.isoformat() if self.dropped else None,
            "size_bytes": self.size_bytes,
            "is_partial": self.is_partial,
        }


# -- names


def create(context: FleetContext, schema: str) -> None:
    """Make a new customer's schema with all that it has to hold; raises `SchemaExists`."""
    context.manager._operations.make(schema)


def rename(context: FleetContext, old: str, new: str) -> None:
    """Give a customer another name; the state, the note and the dates stay.

    Waits until the transactions that work there are over, and raises `SchemaBusy` if that
    takes too long. Raises `SchemaNotFound`, `ForeignSchema` and `SchemaExists`.
    """
    source, target = map(context.manager.parse_schema, (old, new))
    with working_on(context, source, target) as connection:
        read_mark(connection, source)
        move(connection, source, target)
    _moved(context, source, target)


# -- the trash


def drop(
    context: FleetContext,
    schema: str,
    *,
    purge: bool = False,
    stop: threading.Event | None = None,
) -> str:
    """Put a customer into the trash, and return its name there; its own name is free then.

    With ``purge=True`` it is dropped for good; one that was interrupted stays in the trash
    for the next purge. Waits for transactions as `rename` does.
    """
    source, target = context.manager.parse_schema(schema), hidden_schema("trash")
    with working_on(context, source) as connection:
        mark = read_mark(connection, source)
        if purge:
            refuse_needed(connection, source)
        move(connection, source, target)
        dropped = mark.changed_to(State.TRASHED, name=str(source), former=mark.state.value)
        # To the microsecond, for one name may be dropped twice in a second.
        write_mark(connection, target, replace(dropped, changed=datetime.now(UTC)))
    _moved(context, source)
    if purge:
        Purger(context, stop).work(target)
    return str(target)


def trash(context: FleetContext) -> list[Trashed]:
    """Return what is in the trash, the newest first."""
    dropped = context.customers(states=_DROPPED)
    with context.connected() as connection, connection.begin():
        sizes = {each.schema: each.size_bytes for each in read_overview(connection, dropped)}
    return [
        Trashed(
            each.schema,
            _former_name(each),
            each.mark.changed,
            sizes[each.schema],
            is_partial=each.mark.state is State.PURGING,
        )
        for each in _newest_first(dropped)
    ]


def undo(context: FleetContext, name: str, *, to: str | None = None) -> str:
    """Bring a dropped customer back, and return its name; ``to`` gives it another one.

    ``name`` is the one in the trash, or what it was called: of several of that name it is the
    one that was dropped last. It is suspended if it was so before. Raises `NotInTrash`, and
    `SchemaExists` if the name is taken by now.
    """
    chosen = _in_trash(context, name)[0]
    former = _former_name(chosen)
    target = context.manager.parse_schema(former if to is None else to)
    with working_on(context, chosen.schema, target) as connection:
        mark = find_mark(connection, chosen.schema)
        if mark is None or mark.state is not State.TRASHED:
            raise OrmError(
                f'"{former}" can\'t come back: a part of it was dropped for good already'
            )
        advice = 'bring it back under another name, with undo(..., to="...") or --to'
        move(connection, chosen.schema, target, advice)
        state = State.SUSPENDED if mark.former == State.SUSPENDED else State.ACTIVE
        write_mark(connection, target, mark.changed_to(state, name="", former=""))
    _moved(context, chosen.schema, target)
    return str(target)


def purge(
    context: FleetContext,
    names: Iterable[str] | None = None,
    *,
    older_than: timedelta | None = None,
    on_result: OnResult | None = None,
    stop: threading.Event | None = None,
) -> Report:
    """Drop for good what is in the trash, in portions that the server has locks for.

    ``names`` are those in the trash, or what the schemas were called: then all of that name
    go. None: all that is there. ``older_than`` leaves what was dropped later. An interrupted
    purge is ended by the next one. Raises `NotInTrash` before anything is dropped.
    """
    if names is None:
        found = context.customers(states=_DROPPED)
    elif isinstance(names, str):
        raise ConfigurationError(f"names takes a collection of names, not {names!r}")
    else:
        found = [each for name in names for each in _in_trash(context, name)]
    if older_than is not None:
        moment = datetime.now(UTC) - older_than
        found = [each for each in found if (each.mark.changed or moment) <= moment]
    doomed = [each.schema for each in found]
    return run("purge", doomed, lambda: Purger(context, stop), _purging.OPTIONS, on_result, stop)


# -- states and notes


def suspend(context: FleetContext, schema: str, note: str | None = None) -> None:
    """Have the sessions of a customer refused with `SchemaSuspended`; migrations still run.

    Transactions that have begun go on to their end. Other processes know within five
    seconds.
    """

    def change(mark: Mark) -> Mark:
        noted = mark if note is None else replace(mark, note=note)
        is_new = mark.state is not State.SUSPENDED
        return noted.changed_to(State.SUSPENDED) if is_new else noted

    _change_mark(context, schema, change)


def resume(context: FleetContext, schema: str) -> None:
    """Let the sessions of a suspended customer in again."""

    def change(mark: Mark) -> Mark:
        return mark.changed_to(State.ACTIVE) if mark.state is State.SUSPENDED else mark

    _change_mark(context, schema, change)


def annotate(context: FleetContext, schema: str, note: str) -> None:
    """Set the note of a customer; an empty one takes it away."""
    _change_mark(context, schema, lambda mark: replace(mark, note=note))


def adopt(context: FleetContext, *schemas: str) -> None:
    """Make schemas that exist a part of the fleet; what was their comment becomes the note.

    Those that are part of it already are left alone. Raises `SchemaNotFound`.
    """
    names = [context.manager.parse_schema(schema) for schema in schemas]
    for name in names:
        with working_on(context, name) as connection:
            if find_mark(connection, name) is None:
                comment = read_comment(connection, name)
                write_mark(connection, name, Mark(changed=now(), note=comment))


# -- inside


def _change_mark(context: FleetContext, schema: str, change: Callable[[Mark], Mark]) -> None:
    name = context.manager.parse_schema(schema)
    with working_on(context, name) as connection:
        mark = read_mark(connection, name)
        changed = change(mark)
        if changed != mark:
            write_mark(connection, name, changed)
    context.manager.provisioner.forget(name)


def _in_trash(context: FleetContext, name: str) -> list[Customer]:
    """Return what is, or was, called so, the newest first; raises `NotInTrash`."""
    dropped = context.customers(states=_DROPPED)
    found = [each for each in dropped if name in (each.schema, _former_name(each))]
    if not found:
        raise NotInTrash(str(name))
    return _newest_first(found)


def _newest_first(dropped: Iterable[Customer]) -> list[Customer]:
    def age(customer: Customer) -> tuple[float, str]:
        moment = customer.mark.changed
        return (0.0 if moment is None else -moment.timestamp(), customer.schema)

    return sorted(dropped, key=age)


def _former_name(customer: Customer) -> str:
    return customer.mark.name or str(customer.schema)


def _moved(context: FleetContext, *schemas: SchemaName) -> None:
    """Ask the server about these names the next time."""
    for schema in schemas:
        context.manager.provisioner.forget(schema)
        context.manager._operations._appeared(schema)
