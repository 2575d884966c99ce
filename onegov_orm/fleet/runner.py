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
from dataclasses import dataclass, field
from enum import StrEnum
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol, TypedDict

import tenacity

from onegov_orm._attempts import is_retryable, wait_seconds
from onegov_orm.errors import ConfigurationError
from onegov_orm.provisioning import lock

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.fleet._context import FleetContext
    from onegov_orm.names import SchemaName

#: ``lock_not_available``: somebody else works in the schema, and may be done the next time.
_LOCK_NOT_AVAILABLE: Final = "55P03"


class Outcome(StrEnum):
    """How a step ended in a schema."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    #: It was not begun: the run was stopped before, or failed elsewhere.
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class Result:
    """How a step ended in one schema, and after how many seconds and tries."""

    schema: str
    outcome: Outcome
    seconds: float = 0.0
    tries: int = 0
    detail: str = ""
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the result, as JSON has it."""
        return {
            "schema": str(self.schema),
            "outcome": self.outcome.value,
            "seconds": round(self.seconds, 3),
            "tries": self.tries,
            "detail": self.detail,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """How a step ended in all schemas, sorted by name."""

    step: str
    results: tuple[Result, ...]
    seconds: float
    was_stopped: bool = False

    @property
    def is_ok(self) -> bool:
        """Whether nothing failed, and nothing is left to be done."""
        return not self.of(Outcome.FAILED) and not self.of(Outcome.PENDING)

    def of(self, outcome: Outcome) -> list[Result]:
        """Return the results that ended so."""
        return [result for result in self.results if result.outcome is outcome]

    def as_dict(self) -> dict[str, Any]:
        """Return the report, as JSON has it."""
        return {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "was_stopped": self.was_stopped,
            "counts": {outcome.value: len(self.of(outcome)) for outcome in Outcome},
            "results": [result.as_dict() for result in self.results],
        }


class Skipped(Exception):
    """Raised by a step that had nothing to do in a schema; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a step is run.

    :param workers: how many schemas at a time.
    :param canary: so many schemas go first; if one fails, the others are left alone.
    :param wave_size: how many of the others go together; after a wave with a failure no
        further one begins. None: all in one wave.
    :param fail_fast: begin no other schema after the first failure.
    :param lock_timeout_seconds: how long a statement waits for a lock of others.
    :param tries: how often a schema is tried if locks or conflicts were in the way.
    """

    workers: int = 4
    canary: int = 0
    wave_size: int | None = None
    fail_fast: bool = False
    lock_timeout_seconds: float = 10.0
    tries: int = 3

    def __post_init__(self) -> None:
        limits = {"workers": 1, "canary": 0, "wave_size": 1, "tries": 1}
        for name, least in limits.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigurationError(f"{name} has to be at least {least}, not {value}")
        if not self.lock_timeout_seconds > 0:
            raise ConfigurationError(
                f"lock_timeout_seconds has to be positive, not {self.lock_timeout_seconds}"
            )

    def waves(self, schemas: Sequence[SchemaName]) -> Iterator[Sequence[SchemaName]]:
        """Yield the schemas in the groups that go one after the other."""
        if self.canary:
            yield schemas[: self.canary]
        rest = schemas[self.canary :]
        size = self.wave_size or max(1, len(rest))
        for start in range(0, len(rest), size):
            yield rest[start : start + size]


DEFAULT_OPTIONS: Final = RunOptions()

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


class StepWorker:
    """Runs a step in a transaction of each schema."""

    def __init__(self, context: FleetContext, step: Step, options: RunOptions) -> None:
        self._context = context
        self._step = step
        self._options = options
        self._driver: Any = None

    def work(self, schema: SchemaName) -> str | None:
        """Run the step, and commit."""
        timeout = self._options.lock_timeout_seconds
        with self._context.connected(schema, lock_timeout_seconds=timeout) as connection:
            self._driver = connection.connection.dbapi_connection
            try:
                with connection.begin():
                    lock(connection, f"schema {schema}")
                    return self._step(connection, schema)
            finally:
                self._driver = None

    def interrupt(self) -> None:
        """Have the server cancel the statement; the transaction is rolled back."""
        driver = self._driver
        if driver is not None:
            # It may be over just now.
            with suppress(Exception):
                driver.cancel()

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
    job = _Run(name, list(schemas), make_worker, options, on_result, stop or threading.Event())
    return job.report()


class Stopper(threading.Event):
    """Stops a run: at first nothing new is begun; the second time, what runs is ended too."""

    def __init__(self) -> None:
        super().__init__()
        self._workers: set[Worker] = set()

    def stop(self) -> None:
        """Begin nothing new; called again, end what runs. Fit for a signal handler."""
        was_set = self.is_set()
        self.set()
        if was_set:
            # A statement is cancelled by a connection of its own, which takes a moment.
            threading.Thread(target=self.interrupt, daemon=True).start()

    def interrupt(self) -> None:
        """Begin nothing new, and have what runs fail."""
        self.set()
        for worker in list(self._workers):
            worker.interrupt()

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
