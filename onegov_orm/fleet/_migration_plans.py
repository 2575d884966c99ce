"""Decides what brings schemas from where they stand to a target: a script, or Alembic itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import HeadMaintainer, MigrationContext

from onegov_orm.errors import MigrationError
from onegov_orm.fleet import _sql_migrations
from onegov_orm.fleet._migration_job import unbound
from onegov_orm.fleet._migration_scripts import (
    ALEMBIC,
    Direction,
    Scripts,
    revision_of,
    translated,
)
from onegov_orm.fleet._recording import (
    Recorded,
    Recorder,
    RecordingConnection,
    RecordingContext,
    Unreplayable,
    impurity_of,
    record,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

    from onegov_orm.fleet._versions import Standing

#: What env.py may ask of Alembic that a script in one transaction can't do.
_LIVE_OPTIONS = ("on_version_apply", "transaction_per_migration")


@dataclass(frozen=True, slots=True)
class Goal:
    """Where to: a direction and a target; ``purges`` forgets where the schemas stand."""

    direction: Direction
    target: str | tuple[str, ...]
    purges: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """What brings a schema from some revisions to others.

    ``recorded`` is what the revisions send, None if Alembic has to run them in the schema
    itself; then ``reason`` tells why.
    """

    start: frozenset[str]
    end: frozenset[str]
    revisions: tuple[str, ...]
    recorded: tuple[Recorded, ...] | None = None
    reason: str = ""

    @property
    def is_nothing(self) -> bool:
        """Whether the schema is where it has to be."""
        return not self.revisions and self.start == self.end

    @property
    def detail(self) -> str:
        """What there is to say once it is done."""
        return told(self.start, self.end, len(self.revisions))

    def messages(self, schema: str, standing: Standing, key: int) -> Iterator[list[str]]:
        """Yield the statements of one transaction, in the messages in which they are sent.

        Each revision is a message, so that it is known which one failed. The first one waits
        for the lock and makes sure that the schema stands where this move begins.
        """
        opening = [_sql_migrations.lock(key)]
        if not standing.has_table:
            opening.append(_sql_migrations.create_versions(schema))
        opening.append(
            _sql_migrations.require_standing(schema, sorted(self.start), standing.comment)
        )
        closing = _sql_migrations.change_versions(
            schema, self.start - self.end, self.end - self.start
        )
        parts = [list(part.statements) for part in self.recorded or ()] or [[]]
        parts[0] = opening + parts[0]
        parts[-1] = parts[-1] + closing
        yield from parts


class Planner:
    """Knows the move from each place where schemas stand; each is worked out once."""

    def __init__(self, scripts: Scripts, goal: Goal, dialect: Dialect, replay: bool) -> None:
        self._scripts = scripts
        self._goal = goal
        self._dialect = dialect
        self._replay = replay
        self._moves: dict[frozenset[str], Move | MigrationError] = {}

    def move(self, start: frozenset[str]) -> Move:
        """Return the move from these revisions; raises `MigrationError` if there is none."""
        with ALEMBIC:
            found = self._moves.get(start)
            if found is None:
                try:
                    found = self._work_out(start)
                except MigrationError as exc:
                    found = exc
                self._moves[start] = found
        if isinstance(found, MigrationError):
            raise MigrationError(str(found))
        return found

    def _work_out(self, start: frozenset[str]) -> Move:
        goal = self._goal
        if not goal.purges:
            self._scripts.refuse_unknown(start)
        begin = frozenset() if goal.purges else start
        steps = self._scripts.steps(goal.direction, goal.target, begin)
        if goal.direction is Direction.STAMP:
            return Move(start, _end_of(self._dialect, begin, steps), (), ())
        revisions = tuple(revision_of(step) for step in steps)
        if not steps:
            return Move(start, start, ())
        end = _end_of(self._dialect, start, steps)
        try:
            recorded = self._record(start, steps)
        except Unreplayable as exc:
            return Move(start, end, revisions, None, str(exc))
        return Move(start, end, revisions, recorded)

    def _record(self, start: frozenset[str], steps: Sequence[Any]) -> tuple[Recorded, ...]:
        if not self._replay:
            raise Unreplayable("replaying was not wanted")
        options = self._scripts.options
        for name in _LIVE_OPTIONS:
            if options.get(name):
                raise Unreplayable(f"env.py sets {name}")
        for step in steps:
            reason = impurity_of(step.revision)
            if reason:
                raise Unreplayable(f"{revision_of(step)}: {reason}")

        def run(connection: RecordingConnection, recorder: Recorder) -> None:
            self._run(connection, recorder, start, steps)

        return record(run, self._dialect)

    def _run(
        self,
        connection: RecordingConnection,
        recorder: Recorder,
        start: frozenset[str],
        steps: Sequence[Any],
    ) -> None:
        """Run the revisions without a database."""
        scripts = self._scripts
        # Alembic's proxies know its own class only, which is why this is no subclass.
        environment: Any = EnvironmentContext(scripts.config, scripts.directory)

        def get_x_argument(as_dictionary: bool = False) -> Any:
            # The schema is among them.
            raise connection.refuse("it asks for the arguments of -x")

        environment.get_x_argument = get_x_argument
        options = {
            **unbound(scripts.options),
            "fn": lambda heads, context: recorder.steps(steps),
            "script": scripts.directory,
        }
        context = RecordingContext(connection, options, start, environment)
        environment._migration_context = context
        with environment, Operations.context(context):
            context.run_migrations()


def told(start: frozenset[str], end: frozenset[str], count: int) -> str:
    """Return where a schema came from and got to, for people."""
    names = [", ".join(sorted(versions)) or "base" for versions in (start, end)]
    more = f" ({count} revisions)" if count > 1 else ""
    return " -> ".join(names) + more


def _end_of(dialect: Dialect, start: frozenset[str], steps: Sequence[Any]) -> frozenset[str]:
    """Return where steps lead to, by Alembic's own book-keeping."""
    context = MigrationContext(dialect, None, {"as_sql": False})
    context.impl = _Nowhere()  # type: ignore[assignment]
    maintainer = HeadMaintainer(context, start)
    with translated():
        for step in steps:
            maintainer.update_to_step(step)
    return frozenset(maintainer.heads)


class _Nowhere:
    """Takes the changes of the version table, and leaves them."""

    def _exec(self, construct: Any) -> None:
        return None
