"""Runs something in many schemas, or something long in one, and shows how it went."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from onegov_orm.cli._exits import Exit, Interrupted
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._options import Filters, Running, Selection
from onegov_orm.cli._output import Column, Output, count_text, state_text
from onegov_orm.cli._progress import new_progress
from onegov_orm.cli._signals import Signals

if TYPE_CHECKING:
    from onegov_orm.fleet.runner import Report, Result, RunOptions

Value = TypeVar("Value")

#: So many schemas are listed, even if all went well.
_LISTED: Final = 20
_NAMES_SHOWN: Final = 5

_FINISHING: Final = "Stopping: what is in flight is finished. Once more, and it is undone."
_UNDOING: Final = "Stopping: what is in flight is undone."
_SECONDS_BETWEEN_CANCELS: Final = 0.2

_COLUMNS: Final = (
    Column("schema", is_name=True),
    Column("result"),
    Column("seconds", "right"),
    Column("tries", "right"),
    Column("details"),
)


def run_options(invocation: Invocation, running: Running) -> RunOptions:
    """Return the options of a run: flags first, then the configuration."""
    # SQLAlchemy comes along, which the help does without.
    from onegov_orm.fleet.runner import RunOptions

    settings = invocation.settings
    return RunOptions(
        workers=running.workers or settings["workers"],
        canary=running.canary,
        wave_size=running.wave,
        fail_fast=running.fail_fast,
        lock_timeout_seconds=running.lock_timeout or settings["lock_timeout_seconds"],
        tries=running.tries or settings["tries"],
    )


def chosen(
    invocation: Invocation, filters: Filters, patterns: Sequence[str] | None = None
) -> list[str] | None:
    """Return the schemas that were chosen, None for the whole fleet."""
    if patterns is None and isinstance(filters, Selection):
        patterns = filters.schemas
    namespace = filters.namespace or invocation.settings["namespace"]
    exclude = filters.exclude or ()
    if not (patterns or namespace or exclude):
        return None
    found = invocation.fleet().select(*(patterns or ()), namespace=namespace, exclude=exclude)
    return [str(name) for name in found]


def run(
    invocation: Invocation,
    name: str,
    function: Callable[..., Report],
    running: Running,
    schemas: list[str] | None,
) -> Exit:
    """Call a function of the fleet that runs in many schemas, and show its report."""
    options = run_options(invocation, running)
    bound = partial(function, schemas=schemas, options=options)
    return run_with(invocation, name, bound, list_all=running.verbose)


def run_with(
    invocation: Invocation, name: str, function: Callable[..., Report], *, list_all: bool
) -> Exit:
    """Call what takes ``on_result`` and ``stop``, and show the report that it returns.

    The first Ctrl-C or SIGTERM lets what is in flight be finished, the second has it undone.
    """
    # SQLAlchemy comes along, which the help does without.
    from onegov_orm.fleet.runner import Stopper

    output = invocation.output
    stopper = Stopper()

    def on_signal(count: int) -> None:
        if count == 1:
            stopper.set()
        else:
            stopper.interrupt()
        output.note(_FINISHING if count == 1 else _UNDOING, "yellow")

    progress = new_progress(output, name)
    with Signals(on_signal) as signals:
        try:
            report = function(on_result=progress, stop=stopper)
        finally:
            progress.close()
    show_report(output, report, list_all=list_all)
    if report.is_ok:
        return Exit.OK
    return signals.exit_code or Exit.FAILED


def show_report(output: Output, report: Report, *, list_all: bool = False) -> None:
    """Show how a run ended: failures first, then what was not begun; a summary in the end."""

    def tell() -> None:
        rows = _listed(report, list_all)
        if rows:
            output.table(_COLUMNS, [_row(result) for result in rows])
            output.say("")
        output.say(summary(report), "" if report.is_ok else "bold red")
        if not list_all and len(rows) < len(report.results):
            output.note("--verbose lists every schema, --json too.", "dim")

    output.show(report.as_dict(), tell)


def summary(report: Report) -> str:
    """Return the counts on one line: ``498 done, 1 skipped, 1 failed in 12.3 s``."""
    counts = report.as_dict()["counts"]
    told = [f"{count:,} {outcome}" for outcome, count in counts.items() if count]
    return f"{', '.join(told) or 'no schema'} in {report.seconds:.1f} s"


def attend(
    invocation: Invocation,
    doing: str,
    function: Callable[[], Value],
    *,
    has_progress: bool = False,
) -> Value:
    """Do something that may take long, in a way that Ctrl-C ends it and the server undoes it.

    It runs in a thread: while a driver waits for the server, Python hears of no signal.
    """
    output = invocation.output
    work = _Work(function)

    def on_signal(count: int) -> None:
        if count > 1:
            # The server undoes it all the same, when the process has gone.
            work.abandon()
            return
        output.note(_UNDOING, "yellow")
        while not work.ended.wait(_SECONDS_BETWEEN_CANCELS):
            connections.cancel()

    is_drawn = output.err.is_terminal and not has_progress
    spinner = output.err.status(doing) if is_drawn else nullcontext()
    connections = _Connections(invocation)
    with Signals(on_signal) as signals, connections, spinner:
        work.start()
        while not work.ended.wait(0.5):
            pass
    if work.error is not None:
        if signals.exit_code is not None:
            raise Interrupted(signals.exit_code) from work.error
        raise work.error
    value: Value = work.value
    return value


class _Work(threading.Thread):
    """Calls a function in a thread that the process does not wait for."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._context = copy_context()
        self.ended = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def abandon(self) -> None:
        """Wait no longer."""
        self.error = TimeoutError()
        self.ended.set()

    def run(self) -> None:
        try:
            self.value = self._context.run(self._function)
        except BaseException as exc:
            self.error = exc
        finally:
            self.ended.set()


class _Connections:
    """Knows which of the fleet's connections are in use, to cancel what runs on them."""

    def __init__(self, invocation: Invocation) -> None:
        self._engine = invocation.fleet().manager.engine
        self._used: dict[int, Any] = {}

    def __enter__(self) -> None:
        # SQLAlchemy is there by now.
        from sqlalchemy import event

        event.listen(self._engine, "checkout", self._checkout)
        event.listen(self._engine, "checkin", self._checkin)

    def __exit__(self, *_: object) -> None:
        # SQLAlchemy is there by now.
        from sqlalchemy import event

        event.remove(self._engine, "checkout", self._checkout)
        event.remove(self._engine, "checkin", self._checkin)

    def cancel(self) -> None:
        """Have the server end the statements that run."""
        for connection in list(self._used.values()):
            # It may be over just now.
            try:
                connection.cancel()
            except Exception:  # noqa: S112
                continue

    def _checkout(self, connection: Any, *_: object) -> None:
        self._used[id(connection)] = connection

    def _checkin(self, connection: Any, *_: object) -> None:
        self._used.pop(id(connection), None)


def _listed(report: Report, list_all: bool) -> list[Result]:
    """Return the results that are worth a line: failures first."""
    order = {"failed": 0, "pending": 1, "done": 2, "skipped": 3}
    results = sorted(report.results, key=lambda each: order[each.outcome.value])
    if list_all or len(results) <= _LISTED:
        return results
    failed = [each for each in results if each.outcome.value == "failed"]
    pending = [each for each in results if each.outcome.value == "pending"]
    return [*failed, *pending[:_LISTED]]


def _row(result: Result) -> list[Any]:
    seconds = f"{result.seconds:.2f}" if result.tries else ""
    return [
        str(result.schema),
        state_text(result.outcome.value),
        seconds,
        str(result.tries) if result.tries > 1 else "",
        result.error or result.detail,
    ]


def told_names(schemas: Sequence[str] | None) -> str:
    """Return which schemas are meant, in words."""
    if schemas is None:
        return "the whole fleet"
    if len(schemas) <= _NAMES_SHOWN:
        return ", ".join(schemas)
    return f"{count_text(len(schemas), 'schema')}, {schemas[0]} to {schemas[-1]},"
