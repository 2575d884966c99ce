"""What a driver connection knows of its schema, and what has to be sent when.

The classes of `_driver_psycopg2` and `_driver_psycopg` inherit these decisions and add
how the SQL travels. The server's own transaction status is the truth about whether a
transaction is open; nothing here counts begins and commits.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

from onegov_orm import _sql
from onegov_orm._differences import Differences
from onegov_orm._prelude import Prelude
from onegov_orm._standing import Standing
from onegov_orm._statements import Effects, effects_of
from onegov_orm.errors import (
    ForeignConnection,
    PoolerRestriction,
    ReadOnlySession,
    SearchPathMoved,
)

logger = logging.getLogger("onegov_orm.search_path")

#: libpq's ``PGTransactionStatusType``, the same numbers in every driver.
IDLE: Final = 0
ACTIVE: Final = 1
IN_TRANSACTION: Final = 2
IN_FAILED_TRANSACTION: Final = 3

#: Who used a connection that nobody used yet, and one whose last transaction failed.
NOBODY: Final = object()
SOMEBODY: Final = object()

#: What leaves something on the connection, which somebody else may have next.
_SESSION_EFFECTS: Final = Effects.OUTLIVES_TRANSACTION | Effects.LISTENS | Effects.NEEDS_SESSION

#: What a session that only reads is refused.
_ESCAPING_EFFECTS: Final = Effects.ESCAPES | Effects.TWO_PHASES

begin_sql = lru_cache(maxsize=64)(_sql.begin)


class SchemaState:
    """The schema of one driver connection, for as long as somebody has it checked out."""

    prelude: Prelude | None = None
    strict: bool = False
    #: Set when the connection is the parent process's.
    abandoned: bool = False
    #: How many transactions ended, and how often the connection was given back: a cursor of
    #: an earlier one is late.
    transactions: int = 0
    checkins: int = 0
    #: What ends the traces of the customer before.
    cleanse: Sequence[str] = _sql.CLEANSE
    #: Behind a pooler each transaction may be on another of the server's connections: what all
    #: of them start with, None for a connection of our own.
    external_opening: Sequence[str] | None = None
    #: What a pooler told about the path before the transaction: it may be another connection's,
    #: and holds for this one no sooner than it changes.
    _stale_path: str | None = None

    #: Whom the connection served; each one gets its own while connecting.
    standing: Standing = Standing()

    #: Nobody shall have the connection any more once it is given back.
    is_spent: bool = False

    _last_user: object = NOBODY
    _prelude_due: bool = True
    #: Without transactions the path stays for the whole checkout: which, and is it certain.
    _lasting_prelude: Prelude | None = None
    _is_lasting_current: bool = True
    #: The schema was changed inside a transaction, and what is due for that was not sent yet.
    _has_changed_inside: bool = False
    #: The path was moved in this transaction, and set again.
    _was_corrected: bool = False
    #: On servers that report no path: it may have been moved for the whole connection.
    _is_suspect: bool = False
    _soiled: bool = False
    #: For whom the driver may have prepared statements.
    _planned_for: object = NOBODY
    _neutral_path: str | None = None
    _reports_search_path: bool = False
    _wants_autocommit: bool = False
    _xid: str | None = None
    _is_prepared: bool = False

    def bind(self, prelude: Prelude | None) -> None:
        """Make the statements that follow run with this prelude, None for no schema."""
        if prelude is not self.prelude:
            self.prelude = prelude
            self._prelude_due = True
            self._has_changed_inside = not self.is_idle

    def expect_others(self, opening: Sequence[str]) -> None:
        """Expect that others use the server's connection between the transactions."""
        self.external_opening = opening
        self.forget_plans()

    @property
    def reported_at_first(self) -> str | None:
        """The search path with which the connection was opened, None if that is not known."""
        return self._neutral_path

    @property
    def is_idle(self) -> bool:
        """Whether no transaction is open on the server."""
        return self._transaction_status() == IDLE

    def preamble(self, statement: str) -> str:
        """Return what is `due` before this statement, as text to stand in front of it."""
        statements = self.due(statement)
        return "; ".join(statements) + ";\n" if statements else ""

    def due(self, statement: str) -> Sequence[str]:
        """Return the SQL statements that have to reach the server before this one.

        Raises `SearchPathMoved` if the path was moved and ``strict`` is set, or the statement
        may bring the other path back; `ReadOnlySession` and `PoolerRestriction` for what can't
        be had there; `ForeignConnection` in a forked child.
        """
        self.refuse_if_abandoned()
        effects = effects_of(statement)
        status = self._transaction_status()
        # Most statements have no effect, and arithmetic with flags is slow.
        if effects is not Effects.NONE:
            self._refuse(effects, is_open=status != IDLE)
        due: Sequence[str] = ()
        if status == IN_TRANSACTION:
            due = self._correction()
        elif status != IDLE:
            self.has_failed()
        elif effects is Effects.NONE or not effects & Effects.OUTSIDE_TRANSACTION:
            due = self._opening()
        if effects is not Effects.NONE:
            due = self._pinned(due)
            self._expect(effects)
        return due

    def refuse_if_abandoned(self) -> None:
        """Raise `ForeignConnection` in a forked child."""
        if self.abandoned:
            raise ForeignConnection

    def has_failed(self, error: BaseException | None = None) -> None:
        """Trust nothing that was sent in front of a statement that failed.

        Raises `SchemaSuspended` or `SchemaNotFound` if the error says so.
        """
        self._last_user = SOMEBODY
        self._prelude_due = True
        self._is_lasting_current = not self._wants_autocommit and self._lasting_prelude is None
        if error is not None and self.prelude is not None:
            self.standing.refuse(self.prelude.schema, error)

    def due_in_pipeline(self, statement: str) -> Sequence[str]:
        """Return what is due inside a pipeline, where the server's answers come later."""
        due: Sequence[str] = self.prelude.renewal if self._prelude_due and self.prelude else ()
        effects = effects_of(statement)
        if effects is not Effects.NONE:
            self._refuse(effects, is_open=False)
            due = self._pinned(due)
        self._prelude_due = Effects.MOVES_PATH in effects
        self._expect(effects)
        return due

    def cleaning(self) -> str:
        """Return the SQL that makes an idle connection fit for the next customer."""
        if self._soiled:
            return _sql.DISCARD_ALL
        if self._lasting_prelude is not None or not self._is_lasting_current:
            return _sql.RESET_SEARCH_PATH
        if self._reports_search_path and self._is_moved_for_good():
            self._soiled = True
            return _sql.DISCARD_ALL
        return ""

    def was_cleaned(self) -> None:
        """Forget the schema, after what `cleaning` asked for was done."""
        if self._soiled:
            self._last_user = NOBODY
            self.forget_plans()
        self._soiled = False
        self._lasting_prelude = None
        self._is_lasting_current = True
        self._has_changed_inside = False
        self._is_suspect = False
        self.prelude = None
        self._prelude_due = True

    def _pinned(self, due: Sequence[str]) -> Sequence[str]:
        """Return what is due, and let no transaction that reads become one that writes.

        Only before its first snapshot would the server allow that.
        """
        if self._reads_only and self._transaction_status() != IN_FAILED_TRANSACTION:
            return (*due, _sql.TAKE_SNAPSHOT)
        return due

    @property
    def _reads_only(self) -> bool:
        return self.prelude is not None and self.prelude.is_read_only

    def _opening(self) -> Sequence[str]:
        if self._wants_autocommit:
            return self._lasting_opening()
        statements = [self._begin()]
        if self.external_opening is not None:
            statements.extend(self.external_opening)
            self._last_user = SOMEBODY
            self._stale_path = self._reported_search_path()
        if self.prelude is not None:
            statements.extend(self.prelude.opening)
        admission = self._admission()
        # Servers that report no path would not tell that a function has moved it for good.
        is_unsure = bool(admission) and not self._reports_search_path
        if self._lasting_prelude is not None or is_unsure or self._is_moved_for_good():
            admission.append(_sql.RESET_SEARCH_PATH)
        if admission:
            # A plain BEGIN may be of a level that a standby can't have.
            begin = self._begin() if self._reads_only else _sql.BEGIN
            statements = [begin, *admission, _sql.COMMIT, *statements]
        self._prelude_due = False
        self._is_suspect = False
        self._was_corrected = False
        return statements

    def _lasting_opening(self) -> Sequence[str]:
        if self.external_opening is not None:
            raise PoolerRestriction("statements in AUTOCOMMIT")
        if self._reads_only:
            raise ReadOnlySession("a reading session reads in transactions, not in AUTOCOMMIT")
        statements = self._admission()
        if self._is_lasting_due():
            statements.append(self.prelude.lasting if self.prelude else _sql.RESET_SEARCH_PATH)
            self._lasting_prelude = self.prelude
            self._is_lasting_current = True
            self._prelude_due = False
        return statements

    def _is_lasting_due(self) -> bool:
        if self._lasting_prelude is not self.prelude or not self._is_lasting_current:
            return True
        return self.prelude is not None and self._has_moved(self.prelude)

    def _admission(self) -> list[str]:
        """Return what the first transaction of another customer starts with."""
        user = self.prelude.schema if self.prelude else None
        is_same = user == self._last_user
        if is_same and (user is None or self.standing.is_settled):
            return []
        statements = [] if is_same or self._last_user is NOBODY else list(self.cleanse)
        if self.prelude is not None:
            self._admit(self.prelude, statements)
        self._last_user = user
        return statements

    def _admit(self, prelude: Prelude, statements: list[str]) -> None:
        """Ask whether the customer may be served, and count how many were."""
        statements.extend(prelude.admission)
        self._plan_for(prelude.schema)
        if self.standing.admit(prelude.schema):
            self.is_spent = True

    def _correction(self) -> Sequence[str]:
        prelude = self.prelude
        if not self._prelude_due and (prelude is None or not self._has_moved(prelude)):
            return ()
        self._prelude_due = False
        self._was_corrected = True
        statements: list[str] = []
        if self._has_changed_inside:
            # What this transaction leaves behind may be of either customer.
            self._has_changed_inside = False
            self._last_user = SOMEBODY
            statements.extend(self.cleanse)
            if prelude is not None:
                self._admit(prelude, statements)
        # First what holds for the connection, which a COMMIT in a text would bring forth.
        statements.append(_sql.RESET_SEARCH_PATH)
        statements.extend(prelude.renewal if prelude else ())
        return statements

    def _refuse(self, effects: Effects, is_open: bool) -> None:
        """Raise for a text with effects that can't be undone here."""
        if is_open and Effects.REVIVES_PATH in effects:
            self._refuse_to_revive()
        if self._reads_only and effects & _ESCAPING_EFFECTS:
            raise ReadOnlySession("a reading session can't leave its read-only transaction")
        self.refuse_behind_pooler(effects)

    def refuse_behind_pooler(self, effects: Effects) -> None:
        """Raise `PoolerRestriction` for what needs a connection of one's own."""
        if self.external_opening is None:
            return
        if effects & _SESSION_EFFECTS:
            raise PoolerRestriction("settings, locks and tables of the connection's own")
        if Effects.ESCAPES in effects:
            raise PoolerRestriction("text that ends the transaction and goes on")

    def _refuse_to_revive(self) -> None:
        """Refuse a text that could bring back a path from before it was set again."""
        prelude = self.prelude
        if prelude is None:
            return
        found = self._reported_search_path() if self._reports_search_path else None
        is_moved = self._prelude_due if found is None else not prelude.matches(found)
        if is_moved or self._was_corrected:
            moved_to = found if is_moved and found else "that of the savepoint"
            raise SearchPathMoved(prelude.reported, moved_to)

    def _is_moved_for_good(self) -> bool:
        """Tell whether the path outside of transactions is not what it was at first."""
        if self.external_opening is not None:
            return False
        if self._reports_search_path:
            return self._reported_search_path() != self._neutral_path
        return self._is_suspect

    def _has_moved(self, prelude: Prelude) -> bool:
        if not self._reports_search_path:
            return self._prelude_due
        found = self._reported_search_path()
        if self.external_opening is not None:
            if found == self._stale_path:
                return True
            self._stale_path = None
        if found is not None and prelude.matches(found):
            return False
        if self.strict:
            raise SearchPathMoved(prelude.reported, found)
        logger.warning(
            "the search path of schema %s was moved to %s, and is set again",
            prelude.schema,
            found,
            extra={"schema": str(prelude.schema)},
        )
        return True

    def _expect(self, effects: Effects) -> None:
        if effects & Effects.OUTLIVES_TRANSACTION:
            self._soiled = True
        if effects & Effects.LISTENS:
            self.is_spent = True
        if Effects.MOVES_PATH in effects and self.prelude and not self._reports_search_path:
            self._prelude_due = True
            self._is_suspect = True

    def _plan_for(self, schema: str) -> None:
        if self._planned_for not in (NOBODY, schema):
            self.forget_plans()
        self._planned_for = schema

    def forget_plans(self) -> None:
        """Have the driver use no prepared statement of another customer."""

    def share(self, differences: Differences) -> None:
        """Learn together with the other connections of an engine, if the driver prepares."""

    def clean(self) -> Any:
        """Make the connection fit for the next customer; an open transaction ends.

        Has to be awaited where the driver is asynchronous.
        """
        raise NotImplementedError

    def hang_up(self) -> None:
        """Close the connection at once, without waiting for anything."""
        raise NotImplementedError

    def cut_off(self) -> None:
        """End the conversation from outside: who waits for an answer hears that there is none.

        The driver may be busy in another thread, where closing would pull the rug from under it.
        """
        number: int = self.fileno()  # type: ignore[attr-defined]
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as handle:
            handle.shutdown(socket.SHUT_RDWR)

    def _transaction_status(self) -> int:
        raise NotImplementedError

    def _reported_search_path(self) -> str | None:
        raise NotImplementedError

    def _begin(self) -> str:
        raise NotImplementedError
