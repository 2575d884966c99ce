"""The mark that tells whose a schema is: a line in its comment on the database.

The fleet is what carries a mark. It travels with the schema when that is renamed, dumped or
restored, changes in the same transaction as what it tells of, and needs no table.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Self

#: What the comment begins with.
PREFIX: Final = "onegov_orm "


class State(StrEnum):
    """What a schema of the fleet is there for."""

    ACTIVE = "active"
    #: A customer whose sessions are refused; migrations still run.
    SUSPENDED = "suspended"
    #: Dropped, and renamed: it can come back.
    TRASHED = "trashed"
    #: Dropped, and on its way out: some of it may be gone already.
    PURGING = "purging"
    #: Made ahead for the next new customer.
    SPARE = "spare"


#: The states of customers, as opposed to those of hidden schemas.
LIVE: Final = (State.ACTIVE, State.SUSPENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What is known of a schema: its state, dates and a note.

    Moments are in UTC. ``name`` is what a trashed schema was called, and ``former`` the state
    that it was in; ``changed`` tells when the state was last changed, ``migrated`` when
    migrations or upgrade tasks last changed something.
    ``made_of`` tells what a spare was made of; ``steps`` are the named steps that ran.
    """

    state: State = State.ACTIVE
    created: datetime | None = None
    changed: datetime | None = None
    migrated: datetime | None = None
    note: str = ""
    name: str = ""
    former: str = ""
    made_of: str = ""
    steps: tuple[str, ...] = ()

    @classmethod
    def new(cls, state: State = State.ACTIVE, **values: Any) -> Self:
        """Return the mark of a schema that is made now."""
        return cls(state=state, created=now(), **values)

    @classmethod
    def parse(cls, comment: str | None) -> Self | None:
        """Return the mark that a comment holds, None for a comment of somebody else's."""
        if comment is None or not comment.startswith(PREFIX):
            return None
        try:
            values = dict(json.loads(comment.removeprefix(PREFIX)))
            return cls(**{name: _read(name, values[name]) for name in _NAMES if name in values})
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return None

    def changed_to(self, state: State, **values: Any) -> Self:
        """Return the mark as it is after a change of the state, now."""
        return replace(self, state=state, changed=now(), **values)

    @property
    def comment(self) -> str:
        """The mark as a comment; the state stands first, where the server looks for it."""
        written = {name: value for name, value in self.as_dict().items() if value}
        shown = json.dumps(written, ensure_ascii=False)
        # Half of a pair of characters is nothing that the server could store.
        is_storable = _LONE_SURROGATES.search(shown) is None
        return PREFIX + (shown if is_storable else json.dumps(written))

    def as_dict(self) -> dict[str, Any]:
        """Return all that is known, as JSON has it."""
        return {name: _written(getattr(self, name)) for name in _NAMES}


_NAMES: Final = tuple(field.name for field in fields(Mark))
_LONE_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_MOMENTS: Final = ("created", "changed", "migrated")


def now() -> datetime:
    """Return the current moment, in UTC and to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def state_prefix(state: State) -> str:
    """Return what the comment of a schema in this state begins with."""
    return PREFIX + json.dumps({"state": state.value})[:-1]


def _read(name: str, value: Any) -> Any:
    if name == "state":
        return State(value)
    if name == "steps":
        return tuple(str(step) for step in value)
    if name not in _MOMENTS:
        return str(value)
    moment = datetime.fromisoformat(value)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _written(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value
