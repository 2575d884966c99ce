"""What the synchronous and the asynchronous connections of psycopg 3 share: decisions, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import psycopg
from psycopg import sql as psycopg_sql

from onegov_orm._attempts import is_changed_plan
from onegov_orm._connection import ACTIVE, IDLE, IN_FAILED_TRANSACTION, SchemaState, begin_sql
from onegov_orm._differences import Differences
from onegov_orm._prelude import Prelude
from onegov_orm._statements import Effects

SUCCESSES: Final = (psycopg.pq.ExecStatus.COMMAND_OK, psycopg.pq.ExecStatus.TUPLES_OK)


class PsycopgState(SchemaState):
    """What a connection of psycopg's knows of its schema."""

    #: Whether what is due travels with the first statement, in a pipeline. It saves a
    #: round trip, and costs the processor more than a round trip on the same machine.
    pipelines: bool = False

    _differences: Differences = Differences()
    _renewals: int = 0

    # What the driver's connection has.
    pgconn: Any
    info: Any
    isolation_level: Any
    read_only: bool | None
    deferrable: bool | None
    prepare_threshold: int | None

    def notice_path(self) -> None:
        """Note what the search path is before anything was done."""
        self._neutral_path = self._reported_search_path()
        self._reports_search_path = self._neutral_path is not None

    def can_pipeline(self, query: Any) -> bool:
        """Tell whether what is due can travel in a pipeline with the query.

        Several statements in one text can't.
        """
        if not self.pipelines or self._wants_autocommit or self.pgconn.pipeline_status:
            return False
        return ";" not in text_of(query, self)

    def due_for(self, query: Any) -> Sequence[str]:
        """Return the statements that are due before the query."""
        text = text_of(query, self)
        return self.due_in_pipeline(text) if self.pgconn.pipeline_status else self.due(text)

    def share(self, differences: Differences) -> None:
        """Learn together with the other connections of an engine."""
        self._differences = differences
        self._renewals = differences.renewals

    def bind(self, prelude: Prelude | None) -> None:
        """Make the statements that follow run with this prelude, None for no schema."""
        if self._renewals != self._differences.renewals:
            self._renewals = self._differences.renewals
            self.forget_plans()
        super().bind(prelude)

    def note_error(self, error: psycopg.Error) -> None:
        """Have all connections give up what they prepared, if it was made for other tables.

        After a change of tables the others would fail too, one after the other.
        """
        if is_changed_plan(error):
            self._differences.renewals += 1

    def forget_plans(self) -> None:
        """Prepare no statements any more.

        The types of a prepared statement's parameters are those of the schema it was made
        for, and an enum of the same name in another schema is another type.
        """
        self.prepare_threshold = None

    def refuse_failed_commit(self) -> None:
        """Raise ``InFailedSqlTransaction``, after the rollback of what could not be committed."""
        raise psycopg.errors.InFailedSqlTransaction(
            "the transaction failed earlier and was rolled back: nothing was committed"
        )

    def expect_rollback(self) -> bool:
        """Note that a transaction ends; tell whether there is anything to roll back."""
        if self.abandoned or self.pgconn.status == psycopg.pq.ConnStatus.BAD:
            return False
        if self._transaction_status() == IN_FAILED_TRANSACTION:
            self.has_failed()
        self.transactions += 1
        return True

    def close_if_stuck(self, generator: Any) -> None:
        """Close a connection that is left in the middle of something, such as a COPY.

        psycopg has the server cancel what runs; where that came too late, it would wait for
        data that nobody sends any more.
        """
        if not self.abandoned and self._transaction_status() == ACTIVE:
            self.pgconn.finish()
            # Ended here, the generator of the wait complains to us; later, to nobody.
            with suppress(psycopg.Error, RuntimeError):
                generator.close()

    def want_autocommit(self, value: bool) -> None:
        """Make statements commit by themselves, or not."""
        if self._transaction_status() != IDLE and not self.pgconn.pipeline_status:
            raise psycopg.ProgrammingError(
                "autocommit can't be changed inside a transaction: commit or roll back first"
            )
        self._wants_autocommit = bool(value)

    def check(self, result: Any) -> str:
        """Return the server's status message; raises the error that it sent."""
        if result.status not in SUCCESSES:
            error = psycopg.errors.error_from_result(result, encoding=self.info.encoding)
            self.has_failed(error)
            if self.pgconn.status == psycopg.pq.ConnStatus.BAD and error.sqlstate is None:
                # That there is no server any more is told by libpq, not by the server.
                raise psycopg.OperationalError(str(error))
            raise error
        return (result.command_status or b"").decode()

    def _transaction_status(self) -> int:
        return self.pgconn.transaction_status  # type: ignore[no-any-return]

    def _reported_search_path(self) -> str | None:
        reported = self.pgconn.parameter_status(b"search_path")
        return None if reported is None else reported.decode()

    def _begin(self) -> str:
        level = self.isolation_level
        name = None if level is None else level.name.replace("_", " ")
        return begin_sql(name, self.read_only, self.deferrable)


class DeclaredCursor:
    """What a cursor on the server knows of the transaction that it was declared in."""

    connection: Any
    withhold: Any
    #: How often the connection had been given back when the cursor was made.
    checkins: int | None = None
    declared_in: int | None = None

    def refuse_if_held(self) -> None:
        """Raise `PoolerRestriction` for a cursor that would outlive its transaction."""
        if self.withhold:
            self.connection.refuse_behind_pooler(Effects.NEEDS_SESSION)

    def refuse_if_over(self) -> None:
        """Raise ``ProgrammingError`` if the cursor is gone with its transaction."""
        self.connection.refuse_if_abandoned()
        if not self.is_alive():
            raise psycopg.ProgrammingError("the transaction of this server-side cursor is over")

    def is_alive(self) -> bool:
        """Tell whether the server still has the cursor, for this process."""
        connection = self.connection
        if self.declared_in is None or self.checkins != connection.checkins:
            return False
        if connection.abandoned:
            return False
        return bool(self.withhold) or self.declared_in == connection.transactions


def refuse_if_late(cursor: Any) -> None:
    """Raise ``InterfaceError`` if the cursor's connection may be somebody else's by now."""
    if cursor.checkins is not None and cursor.checkins != cursor.connection.checkins:
        raise psycopg.InterfaceError("the cursor's connection was given back to the pool")


def cursor_class(own: Any, given: Any) -> Any:
    """Return a cursor class of ours, with the caller's as a base class."""
    if issubclass(given, own):
        return given
    if issubclass(own, given):
        return own
    return type(f"Schema{given.__name__}", (own, given), {})


def text_of(query: Any, connection: Any) -> str:
    """Return the text of whatever psycopg takes as a query."""
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    if isinstance(query, psycopg_sql.Composable):
        return query.as_string(connection)
    return str(query)
