"""Runs revisions without a database, and notes the SQL that they would send.

What is noted can be replayed in many schemas by many threads. A revision is *live* instead,
run by Alembic in each schema, if what it sends may differ from schema to schema: if it looks at
a result, at the connection or its transactions, imports what may look at the world, or sends
something else the second time.
"""

from __future__ import annotations

import ast
import datetime as dt
import decimal
import enum
import inspect
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from alembic.runtime.migration import MigrationContext
from sqlalchemy.sql import ClauseElement, Insert
from sqlalchemy.sql.ddl import ExecutableDDLElement

from onegov_orm._ddl import without_parameters
from onegov_orm._statements import Effects, effects_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from alembic.runtime.migration import RevisionStep
    from alembic.script import Script
    from sqlalchemy.engine import Dialect

#: What a revision may import and still send the same everywhere. Clocks, random numbers, the
#: environment and an application's own modules are not among it.
PURE_PACKAGES: Final = frozenset(
    {
        "__future__", "alembic", "collections", "dataclasses", "decimal", "enum", "functools",
        "geoalchemy2", "itertools", "json", "math", "onegov_orm", "operator", "pgvector", "re",
        "sqlalchemy", "sqlalchemy_utils", "string", "textwrap", "typing", "typing_extensions",
    }
)  # fmt: skip

#: What a revision must not use: it would happen while recording, too.
_IMPURE_NAMES: Final = frozenset(
    {
        "__import__", "breakpoint", "eval", "exec", "globals", "input", "open", "print",
        "AsyncSessionManager", "Fleet", "Session", "SessionManager", "create_async_engine",
        "create_engine", "engine_from_config", "sessionmaker",
    }
)  # fmt: skip


class Unreplayable(Exception):
    """Raised for what can't be known beforehand; the text says what."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The statements of one revision."""

    revision: str
    statements: tuple[str, ...]


class NoResult:
    """What a statement returns while it is only noted: nothing can be read from it."""

    def __init__(self, connection: RecordingConnection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        raise self._connection.refuse("it reads a result")

    def __iter__(self) -> Iterator[Any]:
        raise self._connection.refuse("it reads a result")

    def __bool__(self) -> bool:
        raise self._connection.refuse("it reads a result")


class OneRow:
    """What a change of Alembic's own table returns: it is checked on the server, later."""

    rowcount = 1


class RecordingConnection:
    """Stands in for a connection: takes statements, and refuses everything else."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = without_parameters(dialect)
        self.statements: list[str] = []
        self.own_table: Any = None
        #: Why the revisions can't be replayed; they may have swallowed the error.
        self.refusal = ""

    def execute(
        self, construct: Any, parameters: Any = None, *, execution_options: Any = None
    ) -> NoResult | OneRow:
        """Note a statement."""
        if getattr(construct, "table", self) is self.own_table:
            return OneRow()
        if execution_options:
            raise self.refuse("it sets execution options")
        self.statements.extend(self._texts(construct, parameters))
        return NoResult(self)

    def in_transaction(self) -> bool:
        """Tell Alembic that the transaction is none of its business."""
        return True

    def schema_for_object(self, obj: Any) -> str | None:
        """Return the schema that something was given explicitly."""
        schema: str | None = obj.schema
        return schema

    def _run_ddl_visitor(self, visitor: Callable[..., Any], element: Any, **options: Any) -> None:
        if options.get("checkfirst"):
            raise self.refuse("it looks whether something exists")
        visitor(dialect=self.dialect, connection=self, **options).traverse_single(element)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self.refuse(f"it uses the connection ({name})")

    def refuse(self, reason: str) -> Unreplayable:
        """Note why the revision can't be replayed, and return the error."""
        self.refusal = self.refusal or reason
        return Unreplayable(reason)

    def _texts(self, construct: Any, parameters: Any) -> list[str]:
        if not isinstance(construct, ClauseElement):
            raise self.refuse("it executes something of its own")
        if not parameters:
            return [self._text(construct)]
        if not isinstance(construct, Insert):
            raise self.refuse("it passes parameters")
        rows = parameters if isinstance(parameters, (list, tuple)) else [parameters]
        return [self._text(construct.values(row)) for row in rows]

    def _text(self, construct: Any) -> str:
        if isinstance(construct, ExecutableDDLElement):
            text = str(construct.compile(dialect=self.dialect)).strip()
        else:
            self._check_values(construct.compile(dialect=self.dialect))
            options = {"literal_binds": True}
            text = str(construct.compile(dialect=self.dialect, compile_kwargs=options)).strip()
        if effects_of(text) is not Effects.NONE:
            raise self.refuse("it touches the transaction or the settings")
        return text

    def _check_values(self, compiled: Any) -> None:
        """Refuse values that are not the same, written as text."""
        if any(getattr(compiled, name, ()) for name in ("insert_prefetch", "update_prefetch")):
            raise self.refuse("it computes values in Python")
        for value in (compiled.construct_params() or {}).values():
            for each in value if isinstance(value, (list, tuple)) else (value,):
                is_finite = not isinstance(each, float) or math.isfinite(each)
                if not isinstance(each, _PLAIN_VALUES) or not is_finite:
                    raise self.refuse(f"it passes a value of type {type(each).__name__}")


#: Values that literals can be written of.
_PLAIN_VALUES: Final = (
    str, int, float, bool, NoneType, decimal.Decimal, dt.date, dt.time,
    dt.timedelta, uuid.UUID, enum.Enum, dict,
)  # fmt: skip


class RecordingContext(MigrationContext):
    """Alembic's context without a database: knows from where to start, and nothing else."""

    def __init__(
        self, connection: Any, options: dict[str, Any], heads: Iterable[str], environment: Any
    ) -> None:
        super().__init__(connection.dialect, connection, options, environment)
        self._start = tuple(sorted(heads))
        self._has_started = False
        connection.own_table = self._version

    def get_current_heads(self) -> tuple[str, ...]:
        """Return where to start; a revision that asks gets no answer."""
        if self._has_started:
            self._refuse("it looks at the versions")
        self._has_started = True
        return self._start

    def _ensure_version_table(self, purge: bool = False) -> None:
        """Leave the table to those who have a database."""

    @contextmanager
    def autocommit_block(self) -> Iterator[None]:
        """Refuse, since what is recorded is one transaction."""
        self._refuse("it runs outside of a transaction")
        yield

    def _refuse(self, reason: str) -> None:
        connection: Any = self.connection
        raise connection.refuse(reason)


def impurity_of(script: Script) -> str:
    """Return why a revision's module may send something else each time, or nothing."""
    try:
        tree = ast.parse(inspect.getsource(script.module))
    except (OSError, TypeError, SyntaxError):
        return "its source is not at hand"
    for node in ast.walk(tree):
        strange = _strange_imports(node)
        if strange:
            return f"it imports {strange[0]}"
        name = getattr(node, "id", None) or getattr(node, "attr", None)
        if name in _IMPURE_NAMES:
            return f"it uses {name}"
    return ""


Run = Callable[["RecordingConnection", "Recorder"], None]


def record(run: Run, dialect: Dialect) -> tuple[Recorded, ...]:
    """Run revisions twice, and return what they send; raises `Unreplayable`."""
    first, second = (_record_once(run, dialect) for _ in range(2))
    if first != second:
        raise Unreplayable("it sends something else each time")
    return first


class Recorder:
    """Collects what each of some revisions sends."""

    def __init__(self, connection: RecordingConnection) -> None:
        self.recorded: list[Recorded] = []
        self._connection = connection

    def steps(self, steps: Sequence[RevisionStep]) -> Iterator[RevisionStep]:
        """Yield the steps that Alembic is to run, and note their statements after each."""
        for step in steps:
            self._connection.statements = []
            yield step
            revision: Any = step
            statements = tuple(self._connection.statements)
            self.recorded.append(Recorded(str(revision.revision.revision), statements))


def _record_once(run: Run, dialect: Dialect) -> tuple[Recorded, ...]:
    connection = RecordingConnection(dialect)
    recorder = Recorder(connection)
    try:
        run(connection, recorder)
    except Unreplayable:
        raise
    except Exception as exc:
        # If it is a real mistake, it shows in the schemas.
        reason = connection.refusal or f"it fails without a database ({type(exc).__name__})"
        raise Unreplayable(reason) from exc
    if connection.refusal:
        raise Unreplayable(connection.refusal)
    return tuple(recorder.recorded)


def _strange_imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or "."] if not node.level else ["."]
    else:
        return []
    return [name for name in names if name.partition(".")[0] not in PURE_PACKAGES]
