"""Reading sessions do not write: they say so at once, and the server does in any case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from onegov_orm.errors import ReadOnlySession

if TYPE_CHECKING:
    from sqlalchemy.engine import Result
    from sqlalchemy.orm import ORMExecuteState, Session

#: ``read_only_sql_transaction``
_READ_ONLY: Final = "25006"


class ReadOnlyEvents:
    """Listens to sessions, and refuses what a reading one is asked to write."""

    def attach(self, target: Any) -> None:
        """Listen to a session, session class or sessionmaker."""
        event.listen(target, "before_flush", self.before_flush)
        event.listen(target, "do_orm_execute", self.do_orm_execute)

    def before_flush(self, session: Session, flush_context: Any, instances: Any) -> None:
        """Refuse to flush anything."""
        refuse_changes(session)

    def do_orm_execute(self, execute: ORMExecuteState) -> Result[Any] | None:
        """Refuse statements that write, and translate the server's refusal of others."""
        if not reads_only(execute.session):
            return None
        if execute.is_insert or execute.is_update or execute.is_delete:
            raise ReadOnlySession
        try:
            return execute.invoke_statement()
        except DBAPIError as exc:
            if getattr(exc.orig, "sqlstate", getattr(exc.orig, "pgcode", None)) != _READ_ONLY:
                raise
            raise ReadOnlySession from exc


def reads_only(session: Any) -> bool:
    """Tell whether this is a reading session."""
    return getattr(session, "access", None) is not None


def refuse_changes(session: Any) -> None:
    """Raise `ReadOnlySession` if this is a reading session with something to write."""
    if reads_only(session) and has_changes(session):
        raise ReadOnlySession


def has_changes(session: Session) -> bool:
    """Tell whether the session has something to write."""
    return bool(
        session.new or session.deleted or any(session.is_modified(obj) for obj in session.dirty)
    )
