"""Objects know their schema, also when they have left their session.

While an object is in a session, the session tells. When it leaves, `IdentityEvents`
writes the schema into the ``info`` of SQLAlchemy's state of the object, which pickles take
along. Loading costs nothing this way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event, inspect
from sqlalchemy.orm.attributes import instance_state

from onegov_orm.errors import CrossSchemaError

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState, Session

    from onegov_orm.typing import DeclarativeBase

_KEY: Final = "onegov_orm.schema"


class IdentityEvents:
    """Listens to objects that leave their session, that join one, and that are pickled."""

    def attach(self, target: Any) -> None:
        """Listen to a session, session class or sessionmaker."""
        event.listen(target, "before_attach", self.before_attach)
        event.listen(target, "persistent_to_detached", self.detached)
        event.listen(target, "deleted_to_detached", self.detached)

    def attach_base(self, base: DeclarativeBase) -> None:
        """Listen to the objects of a declarative base."""
        event.listen(base, "pickle", self.pickle, propagate=True)

    def before_attach(self, session: Session, instance: Any) -> None:
        """Refuse the object of another schema."""
        refuse_foreign(session, instance_state(instance))

    def detached(self, session: Session, instance: Any) -> None:
        """Write the schema on an object that leaves its session."""
        stamp(instance_state(instance), session.info.get("schema"))

    def pickle(self, instance: Any, state: dict[str, Any]) -> None:
        """Take the schema along of an object that is still in its session."""
        owner = owner_of(instance_state(instance))
        if owner is not None:
            state["info"] = {**state.get("info", {}), _KEY: owner}


def owner_of(state: InstanceState[Any]) -> str | None:
    """Return the schema of an object, None if it never was in a session of one."""
    session = state.session
    if session is not None:
        owner: str | None = session.info.get("schema")
        return owner
    return _info_of(state).get(_KEY)


def stamp(state: InstanceState[Any], schema: str | None) -> None:
    """Write the schema on the state of an object."""
    if schema is not None:
        state.info[_KEY] = schema


def refuse_foreign(session: Session, state: InstanceState[Any]) -> None:
    """Raise `CrossSchemaError` if the object belongs to another schema than the session.

    An object without an identity is new, or was made transient on purpose: it is welcome.
    """
    if state.key is None:
        _info_of(state).pop(_KEY, None)
        return
    owner = owner_of(state)
    schema = session.info.get("schema")
    if owner is not None and owner != schema:
        raise CrossSchemaError(state.obj(), owner, str(schema))


def refuse_foreign_graph(session: Session, instance: Any) -> None:
    """Check an object and all that a merge would copy together with it."""
    state = inspect(instance, raiseerr=False)
    if state is None:
        return
    refuse_foreign(session, state)
    for _obj, _mapper, related, _dict in state.mapper.cascade_iterator("merge", state):
        refuse_foreign(session, related)


def _info_of(state: InstanceState[Any]) -> dict[Any, Any]:
    # The attribute itself would make a dictionary for each object that is asked about.
    info: dict[Any, Any] = state.__dict__.get("info", {})
    return info
