"""Runs a step in many schemas: each wholly or not at all, some at a time, with a report.

A step runs in a transaction of its schema, under the schema's advisory lock. Lock timeouts,
deadlocks and serialization failures are tried again. What was not begun when the run was
stopped stays pending, and a later run goes on from there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol, TypedDict

import tenacity

from onegov_orm._attempts import is_retryable, wait_seconds
from onegov_orm._marking import read_mark, write_mark
from onegov_orm.fleet._results import Outcome, Report, Result
from onegov_orm.fleet._run_options import DEFAULT_OPTIONS, RunOptions
from onegov_orm.provisioning import lock, schema_exists

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.fleet._context import FleetContext
    from onegov_orm.names import SchemaName

__all__ = [
    "DEFAULT_OPTIONS",
    "Interruption",
    "OnResult",
    "Outcome",
    "Report",
    "Result",
    "RunArguments",
    "RunOptions",
    "Skipped",
    "Step",
    "StepWorker",
    "Stopper",
    "Worker",
    "one_line",
    "run",
    "run_named_step",
    "run_step",
]

#: ``lock_not_available``: somebody else works in the schema, and may be done the next time.
_LOCK_NOT_AVAILABLE: Final = "55P03"

#: How long a signal handler waits at the most, and after what time workers that still work
#: are interrupted again.
_HANDLER_SECONDS: Final = 0.2
_INTERRUPTION_SECONDS: Final = 0.1


class Skipped(Exception):
    """Raised by a step that had nothing to do in a schema; the text says why."""


Step = Callable[["Connection", "SchemaName"], str | None]
OnResult = Callable[[Result, int, int], None]


class RunArguments(TypedDict, total=False):
    """What everything takes that runs over schemas.

    ``schemas`` are names, None means all customers; ``on_result`` is called after each schema;
    when ``stop`` is set, nothing new is begun.
    """

    schemas: Iterable[str] | None
    options: RunOptions
    on_result: OnResult | None
    stop: threading.Event | None


class Worker(Protocol):
    """Does the work in one schema after the other, for one of the threads of a run."""

    def work(self, schema: SchemaName) -> str | None:
        """Do all of it or nothing, and return what there is to say; may raise `Skipped`."""

    def interrupt(self) -> None:
        """End what runs just now, called by another thread; it fails then."""

    def close(self) -> None:
        """Let go of everything."""


class Interruption:
    """Lets another thread end what the server does for this one."""

    def __init__(self) -> None:
        self._driver: Any = None
        self._guard = threading.Lock()

    @contextmanager
    def of(self, connection: Connection) -> Iterator[None]:
        """Let the block's statements on this connection be ended."""
        self._driver = connection.connection.dbapi_connection
        try:
            yield
        finally:
            # Afterwards the connection is somebody else's.
            with self._guard:
                self._driver = None

    def interrupt(self) -> None:
        """Have the server cancel the statement; the transaction is rolled back."""
        with self._guard:
            if self._driver is not None:
                # It may be over just now.
                with suppress(Exception):
                    self._driver.cancel()


class StepWorker:
    """Runs a step in a transaction of each schema."""

    def __init__(self, context: FleetContext, step: Step, options: RunOptions) -> None:
        self._context = context
        self._step = step
        self._options = options
        self._interruption = Interruption()
        self.interrupt = self._interruption.interrupt

    def work(self, schema: SchemaName) -> str | None:
        """Run the step, and commit."""
        timeout = self._options.lock_timeout_seconds
        with (
            self._context.connected(schema, lock_timeout_seconds=timeout) as connection,
            self._interruption.of(connection),
            connection.begin(),
        ):
            lock(connection, f"schema {schema}")
            # Without it, the step would work in the schema of the extensions.
            if not schema_exists(connection, schema):
                raise Skipped("it was dropped or renamed in the meantime")
            return self._step(connection, schema)

    def close(self) -> None:
        """Do nothing: the connections are the pool's."""


def run_step(
    context: FleetContext,
    name: str,
    step: Step,
    schemas: Sequence[SchemaName],
    options: RunOptions = DEFAULT_OPTIONS,
    on_result: OnResult | None = None,
    stop: threading.Event | None = None,
) -> Report:
    """Run a step in these schemas, each in a transaction of its own."""

    def make_worker() -> Worker:
        return StepWorker(context, step, options)

    return run(name, schemas, make_worker, options, on_result, stop)


def run_named_step(
    context: FleetContext,
    name: str,
    step: Step,
    schemas: Sequence[SchemaName],
    *,
    options: RunOptions = DEFAULT_OPTIONS,
    on_result: OnResult | None = None,
    stop: threading.Event | None = None,
    is_recorded: bool = True,
) -> Report:
    """Run a step that is noted in each schema's mark, and skipped where it ran before.

    The note is written in the step's transaction: both are there, or none. A step that raises
    `Skipped` did not run.
    """

    def recorded(connection: Connection, schema: SchemaName) -> str | None:
        if name in read_mark(connection, schema).steps:
            raise Skipped("it ran before")
        detail = step(connection, schema)
        # Read anew, for the step may have changed the mark.
        mark = read_mark(connection, schema)
        write_mark(connection, schema, replace(mark, steps=(*mark.steps, name)))
        return detail

    used = recorded if is_recorded else step
    return run_step(context, name, used, schemas, options, on_result, stop)


def run(
    name: str,
    schemas: Iterable[SchemaName],
    make_worker: Callable[[], Worker],
    options: RunOptions = DEFAULT_OPTIONS,
    on_result: OnResult | None = None,
    stop: threading.Event | None = None,
) -> Report:
    """Have workers do something in these schemas, and report how it went.

    ``on_result`` is called after each schema, never by two threads at once. When ``stop`` is
    set, nothing new is begun; a `Stopper` can also end what runs.
    """
    once = list(dict.fromkeys(schemas))
    job = _Run(name, once, make_worker, options, on_result, stop or threading.Event())
    return job.report()


class Stopper(threading.Event):
    """Stops a run: at first nothing new is begun; the second time, what runs is ended too."""

    def __init__(self) -> None:
        super().__init__()
        self._workers: set[Worker] = set()
        self._was_asked = False

    def stop(self) -> None:
        """Begin nothing new; called again, end what runs. Fit for a signal handler."""
        is_final = self._was_asked or self.is_set()
        self._was_asked = True
        # The handler may have interrupted somebody who has the lock of the event.
        thread = threading.Thread(target=self.interrupt if is_final else self.set, daemon=True)
        thread.start()
        thread.join(_HANDLER_SECONDS)

    def interrupt(self) -> None:
        """Begin nothing new, and have what runs fail."""
        self.set()
        threading.Thread(target=self._interrupt_all, daemon=True).start()

    def _interrupt_all(self) -> None:
        # Again and again: a worker between two statements has nothing that could be ended.
        while workers := list(self._workers):
            for worker in workers:
                worker.interrupt()
            time.sleep(_INTERRUPTION_SECONDS)

    @contextmanager
    def watching(self, worker: Worker) -> Iterator[None]:
        """Know of a worker as long as the block lasts."""
        self._workers.add(worker)
        try:
            yield
        finally:
            self._workers.discard(worker)


@dataclass
class _Run:
    """One run: the schemas go through a queue to the threads of a wave."""

    name: str
    schemas: list[SchemaName]
    make_worker: Callable[[], Worker]
    options: RunOptions
    on_result: OnResult | None
    stop: threading.Event
    results: dict[str, Result] = field(default_factory=dict)
    has_failed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self) -> Report:
        """Run all waves, and return what came of it."""
        started = time.monotonic()
        for wave in self.options.waves(self.schemas):
            if self.stop.is_set() or self.has_failed:
                break
            self._run_wave(wave)
        for schema in self.schemas:
            self.results.setdefault(schema, Result(str(schema), Outcome.PENDING))
        results = tuple(sorted(self.results.values(), key=lambda result: result.schema))
        seconds = time.monotonic() - started
        return Report(self.name, results, seconds, was_stopped=self.stop.is_set())

    def _run_wave(self, wave: Sequence[SchemaName]) -> None:
        queue: SimpleQueue[SchemaName] = SimpleQueue()
        for schema in wave:
            queue.put(schema)
        threads = min(self.options.workers, len(wave))
        if not threads:
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="fleet") as pool:
            ends = [pool.submit(self._work_off, queue) for _ in range(threads)]
            try:
                for end in ends:
                    end.result()
            except BaseException:
                # An interruption from the keyboard, say: what is in flight is waited for.
                self.stop.set()
                raise

    def _work_off(self, queue: SimpleQueue[SchemaName]) -> None:
        worker = self.make_worker()
        watch = self.stop.watching(worker) if isinstance(self.stop, Stopper) else _nothing()
        try:
            with watch:
                while (schema := self._next(queue)) is not None:
                    self._note(self._result(worker, schema))
        except BaseException:
            # Whoever wanted to hear of the results can't: the other threads end, too.
            self.stop.set()
            raise
        finally:
            worker.close()

    def _next(self, queue: SimpleQueue[SchemaName]) -> SchemaName | None:
        if self.stop.is_set() or (self.options.fail_fast and self.has_failed):
            return None
        try:
            return queue.get_nowait()
        except Empty:
            return None

    def _note(self, result: Result) -> None:
        with self._lock:
            self.results[result.schema] = result
            self.has_failed = self.has_failed or result.outcome is Outcome.FAILED
            if self.on_result is not None:
                self.on_result(result, len(self.results), len(self.schemas))

    def _result(self, worker: Worker, schema: SchemaName) -> Result:
        started = time.monotonic()
        retrying = tenacity.Retrying(
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self.options.tries),
                tenacity.stop_when_event_set(self.stop),
            ),
            wait=wait_seconds,
            retry=tenacity.retry_if_exception(_may_go_away),
            sleep=tenacity.sleep_using_event(self.stop),
            reraise=True,
        )
        outcome, detail, error = Outcome.DONE, "", ""
        try:
            detail = retrying(worker.work, schema) or ""
        except Skipped as skipped:
            outcome, detail = Outcome.SKIPPED, str(skipped)
        except Exception as exc:
            outcome, error = Outcome.FAILED, one_line(exc)
        tries = int(retrying.statistics.get("attempt_number", 1))
        seconds = time.monotonic() - started
        return Result(str(schema), outcome, seconds, tries, detail, error)


def one_line(error: BaseException) -> str:
    """Return what people need of an error, on one line."""
    original = getattr(error, "orig", None) or error
    lines = str(original).strip().splitlines()
    message = lines[0].strip() if lines else ""
    name = type(original).__name__
    return f"{name}: {message}" if message else name


def _may_go_away(error: BaseException) -> bool:
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return state == _LOCK_NOT_AVAILABLE or is_retryable(error)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
