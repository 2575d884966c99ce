"""What a driver connection knows of its schema, and what has to be sent when.

The classes of `_driver_psycopg2` and `_driver_psycopg` inherit these decisions and add
how the SQL travels. The server's own transaction status is the truth about whether a
transaction is open; nothing here counts begins and commits.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Final

from onegov_orm import _sql
from onegov_orm._prelude import Prelude
from onegov_orm._statements import Effects, effects_of
from onegov_orm.errors import ForeignConnection, SearchPathMoved

logger = logging.getLogger("onegov_orm.search_path")

#: libpq's ``PGTransactionStatusType``, the same numbers in every driver.
IDLE: Final = 0
IN_TRANSACTION: Final = 2
IN_FAILED_TRANSACTION: Final = 3

#: Who used a connection that nobody used yet, and one whose last transaction failed.
NOBODY: Final = object()
SOMEBODY: Final = object()

begin_sql = lru_cache(maxsize=64)(_sql.begin)


class SchemaState:
    """The schema of one driver connection, for as long as somebody has it checked out."""

    prelude: Prelude | None = None
    strict: bool = False
    #: Set when the connection is the parent process's, or its manager was disposed.
    abandoned: bool = False

    _last_user: object = NOBODY
    _prelude_due: bool = True
    #: Without transactions the path stays for the whole checkout: which, and is it certain.
    _lasting_prelude: Prelude | None = None
    _is_lasting_current: bool = True
    _soiled: bool = False
    _reports_search_path: bool = False
    _wants_autocommit: bool = False
    _xid: str | None = None
    _is_prepared: bool = False

    def bind(self, prelude: Prelude | None) -> None:
        """Make the statements that follow run with this prelude, None for no schema."""
        if prelude is not self.prelude:
            self.prelude = prelude
            self._prelude_due = True

    def preamble(self, statement: str) -> str:
        """Return the SQL that has to reach the server before this statement.

        Raises `SearchPathMoved` if the path was moved and ``strict`` is set, and
        `ForeignConnection` in a forked child.
        """
        if self.abandoned:
            raise ForeignConnection
        effects = effects_of(statement)
        status = self._transaction_status()
        if status == IDLE:
            sql = "" if effects & Effects.OUTSIDE_TRANSACTION else self._opening()
        elif status == IN_TRANSACTION:
            sql = self._correction()
        else:
            self.has_failed()
            sql = ""
        if effects:
            self._expect(effects)
        return sql

    def has_failed(self) -> None:
        """Trust nothing that was sent in front of a statement that failed."""
        self._last_user = SOMEBODY
        self._prelude_due = True
        self._is_lasting_current = False

    def cleaning(self) -> str:
        """Return the SQL that makes an idle connection fit for the next customer."""
        if self._soiled:
            return _sql.DISCARD_ALL
        if self._lasting_prelude is not None or not self._is_lasting_current:
            return _sql.RESET_SEARCH_PATH
        return ""

    def was_cleaned(self) -> None:
        """Forget the schema, after what `cleaning` asked for was done."""
        if self._soiled:
            self._last_user = NOBODY
        self._soiled = False
        self._lasting_prelude = None
        self._is_lasting_current = True
        self.prelude = None
        self._prelude_due = True

    def _opening(self) -> str:
        if self._wants_autocommit:
            return self._lasting_opening()
        statements = [self._begin()]
        if self.prelude is not None:
            statements.append(self.prelude.local)
        admission = self._admission()
        if admission:
            statements = [_sql.BEGIN, *admission, _sql.COMMIT, *statements]
        self._prelude_due = False
        return "; ".join(statements) + ";\n"

    def _lasting_opening(self) -> str:
        if not self._is_lasting_due():
            return ""
        lasting = self.prelude.lasting if self.prelude else _sql.RESET_SEARCH_PATH
        self._lasting_prelude = self.prelude
        self._is_lasting_current = True
        self._prelude_due = False
        return "; ".join([*self._admission(), lasting]) + ";\n"

    def _is_lasting_due(self) -> bool:
        if self._lasting_prelude is not self.prelude or not self._is_lasting_current:
            return True
        return self.prelude is not None and self._has_moved(self.prelude)

    def _admission(self) -> list[str]:
        """Return what the first transaction of another customer starts with."""
        user = self.prelude.schema if self.prelude else None
        if user == self._last_user:
            return []
        statements = [] if self._last_user is NOBODY else [_sql.CLEANSE]
        if self.prelude is not None:
            statements.extend(self.prelude.admission)
        self._last_user = user
        return statements

    def _correction(self) -> str:
        prelude = self.prelude
        if prelude is None:
            return ""
        if self._prelude_due or self._has_moved(prelude):
            self._prelude_due = False
            return prelude.local + ";\n"
        return ""

    def _has_moved(self, prelude: Prelude) -> bool:
        if not self._reports_search_path:
            return self._prelude_due
        found = self._reported_search_path()
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
        if effects & Effects.MOVES_PATH and not self._reports_search_path:
            self._prelude_due = True

    def clean(self) -> None:
        """Make the connection fit for the next customer; an open transaction ends."""
        raise NotImplementedError

    def _transaction_status(self) -> int:
        raise NotImplementedError

    def _reported_search_path(self) -> str | None:
        raise NotImplementedError

    def _begin(self) -> str:
        raise NotImplementedError
