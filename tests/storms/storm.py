"""The driver of a storm: workers choose operations by a seeded random number generator.

A storm fails with the seed, and with what its workers did last. One thread with the same seed
does the same again; with several threads the server and the scheduler have a say, too.
"""

from __future__ import annotations

import gc
import os
import random
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import transaction
from sqlalchemy import exc, text
from sqlalchemy.orm import Session
from transaction.interfaces import TransactionError

from onegov_orm import SessionManager
from tests.models import Base, Document
from tests.storms import customers
from tests.storms.customers import CUSTOMERS, StormFailure, UnexpectedError, Watch

#: Steps of each storm; CI has five storms, each with two drivers on two servers.
STEPS: Final = int(os.environ.get("ONEGOV_ORM_STORM_STEPS", "5500"))

#: With so many steps, each operation has its turn, and succeeds.
ENOUGH_FOR_ALL: Final = 3000

#: So many of the last steps are printed when a storm fails.
LOGGED_STEPS: Final = 60

#: How often a worker has a look from outside, in steps.
WATCH_EVERY: Final = 100

#: ``serialization_failure``, ``deadlock_detected``: those who meet them try again.
RETRYABLE: Final = frozenset({"40001", "40P01"})
#: ``admin_shutdown``, and the classes of errors of a connection.
LOST: Final = ("57P0", "08")

_DOLLAR_QUOTED: Final = re.compile(r"\$(\w*)\$.*?\$\1\$", re.DOTALL)

Mode = Literal["joined", "joined and kept", "plain"]


@dataclass(frozen=True)
class Weather:
    """What a storm is like."""

    name: str
    mode: Mode
    workers: int = 1
    pool_size: int = 1
    max_overflow: int = 0
    kills: bool = False
    strict: bool = False
    #: Whether what is announced has to be exactly what is committed: no step has a text that
    #: ends the transaction, or hides a table.
    exact: bool = False
    #: psycopg 3 as it works over a network; nothing changes for psycopg2.
    pipeline: bool = False

    @property
    def is_tight(self) -> bool:
        """Whether a worker has to let go of a connection before it takes another."""
        return self.pool_size + self.max_overflow < self.workers * (len(CUSTOMERS) + 2)

    def new_manager(self, dsn: str) -> SessionManager:
        """Make a manager for this weather."""
        return SessionManager(
            dsn,
            Base,
            pool_config={
                "pool_size": self.pool_size,
                "max_overflow": self.max_overflow,
                "pool_timeout": 60 if self.workers > 1 else 0.1,
            },
            transaction_manager=None if self.mode == "plain" else transaction.manager,
            keep_session=self.mode == "joined and kept",
            strict=self.strict,
            pipeline=self.pipeline,
        )


WEATHERS: Final = (
    Weather("one connection", "joined"),
    Weather("one connection, plain", "plain", kills=True, pipeline=True),
    Weather("side by side", "joined and kept", pool_size=3, max_overflow=5, strict=True),
    Weather("four threads", "plain", workers=4, pool_size=2),
    Weather(
        "sixteen threads",
        "joined",
        workers=16,
        pool_size=5,
        max_overflow=2,
        kills=True,
        pipeline=True,
    ),
)


@dataclass(frozen=True)
class Operation:
    """One kind of step."""

    run: Callable[[Worker], None]
    weight: int
    is_possible: Callable[[Storm], bool]

    @property
    def name(self) -> str:
        """The name of its function."""
        return self.run.__name__


@dataclass
class Log:
    """What the workers did, for the message of a failure and for the count."""

    last: deque[str] = field(default_factory=lambda: deque(maxlen=LOGGED_STEPS))
    done: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def add(self, worker: Worker, operation: str, error: BaseException | None) -> None:
        """Note one step."""
        with self.lock:
            self.steps += 1
            outcome = "" if error is None else f" -> {_shown(error)}"
            if error is None:
                self.done[operation] += 1
            else:
                self.excused[f"{operation}: {sqlstate(error) or type(error).__name__}"] += 1
            place = f"worker {worker.number}, {_short(worker.schema)}"
            self.last.append(f"{place}: {operation}{worker.detail}{outcome}")
        worker.detail = ""


class Worker:
    """One user of the manager: it is at one customer's at a time, and moves on at will."""

    def __init__(self, storm: Storm, number: int, customers: Sequence[str] = CUSTOMERS) -> None:
        self.storm = storm
        self.customers = customers
        self.number = number
        self.manager = storm.manager
        self.random = random.Random(f"{storm.seed}-{number}")
        #: What an operation chose, for the log.
        self.detail = ""
        self.schema: str = self.random.choice(customers)
        #: Objects that were loaded at a customer's, to be carried to another one.
        self.carried: deque[tuple[str, Document]] = deque(maxlen=8)
        #: Results of server-side cursors that were not read to their end.
        self.unread: list[tuple[str, Any]] = []
        self._used: dict[str, Session] = {}
        self._may_be_lost = False

    @property
    def session(self) -> Session:
        """The session of the customer."""
        self.manager.set_current_schema(self.schema)
        session = self.manager.session()
        self._used[self.schema] = session
        return session

    @property
    def engine(self) -> Any:
        """The engine whose connections have no schema."""
        return self.manager.sync_engine

    @property
    def is_tight(self) -> bool:
        """Whether this worker has to let go of a connection before it takes another."""
        return self.storm.weather.is_tight

    @property
    def other(self) -> str:
        """Another customer that this worker may go to."""
        return self.random.choice([name for name in self.customers if name != self.schema])

    @property
    def victim(self) -> str:
        """Any other customer, to move a search path to."""
        return self.random.choice([name for name in CUSTOMERS if name != self.schema])

    def note(self, choice: str) -> str:
        """Have the choice in the log, and return it."""
        self.detail += f" [{choice}]"
        return choice

    def chance(self, probability: float) -> bool:
        """Tell whether it happens, this time."""
        return self.random.random() < probability

    def one_of(self, choices: Any) -> Any:
        """Choose."""
        return self.random.choice(choices)

    # -- transactions

    def commit(self) -> None:
        """Commit, in the way of this weather."""
        self.close_unread()
        if self.storm.weather.mode != "plain":
            transaction.commit()
            return
        for session in self._used.values():
            session.commit()

    def rollback(self) -> None:
        """Roll back, in the way of this weather."""
        self.close_unread()
        if self.storm.weather.mode != "plain":
            transaction.abort()
            return
        for session in self._used.values():
            session.rollback()

    def end(self) -> None:
        """Commit or roll back."""
        self.one_of((self.commit, self.commit, self.rollback))()

    def make_room(self) -> None:
        """End what is open, if another connection might not be had otherwise."""
        if self.is_tight:
            self.end()

    # -- steps

    def step(self, operation: Operation) -> None:
        """Do one thing; an error that no storm excuses is a failure."""
        error: BaseException | None = None
        try:
            operation.run(self)
        except StormFailure as failure:
            self.storm.log.add(self, operation.name, failure)
            raise
        except Exception as found:  # what is wrong with it, is decided below
            error = found
        self.storm.log.add(self, operation.name, error)
        if error is not None:
            self._excuse(error, operation.name)
            self.recover()

    def kill(self, pid: int | None = None) -> None:
        """Have a backend killed from outside."""
        self._may_be_lost = True
        self.storm.watch.kill(pid)

    def recover(self) -> None:
        """Start anew after an error."""
        for _attempt in range(3):
            try:
                self.rollback()
            except Exception as error:
                self._excuse(error, "recover")
            else:
                self._may_be_lost = False
                return
        raise UnexpectedError("three times in a row, no rollback succeeded")

    @contextmanager
    def fails(self, *states: str) -> Iterator[None]:
        """Demand that the block ends with one of these errors, and swallow it."""
        try:
            yield
        except StormFailure:
            raise
        except Exception as error:
            if sqlstate(error) not in states:
                raise
        else:
            raise UnexpectedError(f"this should have failed with one of {states}")

    @contextmanager
    def may_fail(self, *states: str) -> Iterator[None]:
        """Swallow one of these errors, if there is one."""
        try:
            yield
        except StormFailure:
            raise
        except Exception as error:
            if sqlstate(error) not in states:
                raise

    @contextmanager
    def finds_no_table(self) -> Iterator[None]:
        """Demand that the block finds no table, but for a temporary one of its customer's."""
        with self.may_fail("42P01"):
            yield

    def close_unread(self) -> None:
        """Close the results that were not read to their end."""
        for _schema, result in self.unread:
            with suppress(exc.SQLAlchemyError):
                result.close()
        self.unread.clear()

    def _excuse(self, error: BaseException, operation: str) -> None:
        """Raise `UnexpectedError`, unless such an error belongs to a storm."""
        if sqlstate(error) in RETRYABLE or isinstance(error, TransactionError):
            return
        if self._may_lose() and _is_loss(error):
            return
        raise UnexpectedError(f"{operation}: {_shown(error)}") from error

    def _may_lose(self) -> bool:
        weather = self.storm.weather
        return weather.kills and (weather.workers > 1 or self._may_be_lost)


class Storm:
    """Workers on one manager, until all steps are done or one fails."""

    def __init__(
        self, weather: Weather, dsn: str, watch: Watch, seed: int, operations: Any
    ) -> None:
        self.weather = weather
        self.dsn = dsn
        self.watch = watch
        self.seed = seed
        self.log = Log()
        self.manager = weather.new_manager(dsn)
        self.manager.on_schema_init.connect(customers.prepare_schema)
        self.driver = self.manager.url.get_driver_name()
        self.reports_path = watch.is_newest
        self.operations = [found for found in operations if found.is_possible(self)]
        self.seconds = 0.0
        self._weights = [found.weight for found in self.operations]
        self._failures: list[tuple[int, BaseException]] = []
        self._stop = threading.Event()

    @property
    def is_strict(self) -> bool:
        """Whether a moved path is an error."""
        return self.weather.strict and self.reports_path

    def begin(self) -> None:
        """Make the customers' schemas, in threads that get into each other's way."""
        with self._threads(self._provision):
            pass
        self._raise_failure()
        self.watch.begin()

    def run(self, steps: int) -> None:
        """Do the steps; raises `StormFailure` with the seed and the last steps."""
        each = -(-steps // self.weather.workers)
        started = time.monotonic()
        with self._threads(lambda number: self._work(number, each)):
            pass
        self._raise_failure()
        self.look()
        self.seconds = time.monotonic() - started
        if self.log.steps < steps:
            raise UnexpectedError(f"only {self.log.steps} of {steps} steps were done")

    def look(self) -> None:
        """Look from outside."""
        self.watch.check_rows()
        self.watch.check_relations()

    def close(self) -> None:
        """Let go of everything."""
        with suppress(Exception):
            transaction.abort()
        self.manager.dispose()
        self.watch.finish()
        gc.collect()

    def summary(self) -> str:
        """Return what was done, for whoever reads the output."""
        excused = ", ".join(f"{name} x{count}" for name, count in self.log.excused.most_common(8))
        return (
            f"{self.log.steps} steps in {self.seconds:.1f} s, {sum(self.log.done.values())} "
            f"without error; rows: {self.watch.count_rows()}; errors: {excused or 'none'}"
        )

    def undone(self) -> set[str]:
        """Return the operations that never succeeded: with enough steps, there are none."""
        return {found.name for found in self.operations} - set(self.log.done)

    def explain(self, failure: BaseException) -> str:
        """Return the message of a failure, with all that is needed to find its reason."""
        weather, last = self.weather, "\n  ".join(self.log.last)
        return (
            f"{failure}\nweather: {weather}\nstep {self.log.steps}; to repeat it, set "
            f"ONEGOV_ORM_STORM_SEED={self.seed}\nthe last steps:\n  {last}"
        )

    def _provision(self, number: int) -> None:
        names = list(CUSTOMERS)
        random.Random(f"{self.seed}-{number}").shuffle(names)
        for name in names:
            self.manager.set_current_schema(name)

    def _work(self, number: int, steps: int) -> None:
        worker = Worker(self, number)
        try:
            for step in range(steps):
                if self._stop.is_set():
                    return
                (operation,) = worker.random.choices(self.operations, self._weights)
                worker.step(operation)
                if step % WATCH_EVERY == number:
                    self.look()
        finally:
            worker.recover()

    @contextmanager
    def _threads(self, work: Callable[[int], None]) -> Iterator[None]:
        threads = [
            threading.Thread(target=self._guarded, args=(work, number), name=f"worker {number}")
            for number in range(self.weather.workers)
        ]
        for thread in threads:
            thread.start()
        yield
        for thread in threads:
            thread.join()

    def _guarded(self, work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
        except BaseException as failure:
            self._failures.append((self.log.steps, failure))
            self._stop.set()

    def _raise_failure(self) -> None:
        if not self._failures:
            return
        _step, failure = self._failures[0]
        kind = type(failure) if isinstance(failure, StormFailure) else UnexpectedError
        raise kind(self.explain(failure)) from failure


def sqlstate(error: BaseException) -> str | None:
    """Return the server's code of an error, None if it is not the server's."""
    original = getattr(error, "orig", None) or error
    return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)


def execute(session: Session, sql: str, **values: Any) -> Any:
    """Execute textual SQL."""
    if _is_script(sql) and session.get_bind().dialect.driver == "asyncpg":
        return _run_script(session.connection(), sql)
    return session.execute(text(sql), values or None)


def driver_sql(connection: Any, sql: str) -> Any:
    """Execute SQL as the driver takes it."""
    if _is_script(sql) and connection.dialect.driver == "asyncpg":
        return _run_script(connection, sql)
    return connection.exec_driver_sql(sql)


def _is_script(sql: str) -> bool:
    return ";" in _DOLLAR_QUOTED.sub("", sql)


def _run_script(connection: Any, sql: str) -> list[Any]:
    """Execute several statements with asyncpg, whose own method alone takes them."""
    with suppress(exc.DBAPIError):  # the transaction may have failed
        connection.exec_driver_sql("SELECT 1")  # or no transaction has begun
    connection.connection.dbapi_connection.run_async(lambda driver: driver.execute(sql))
    return []


def _is_loss(error: BaseException) -> bool:
    """Tell whether the error says that the connection to the server is lost."""
    state = sqlstate(error)
    if state is not None:
        return state.startswith(LOST)
    if isinstance(error, exc.DBAPIError):
        return error.connection_invalidated or _is_loss_of_driver(error.orig)
    # After a loss, SQLAlchemy asks for a rollback before it goes on.
    return isinstance(error, exc.PendingRollbackError) or _is_loss_of_driver(error)


def _is_loss_of_driver(error: BaseException | None) -> bool:
    return type(error).__name__ in ("OperationalError", "InterfaceError", "DatabaseError")


def _short(schema: str) -> str:
    return schema if len(schema) < 20 else f"{schema[:2]}..{schema[-2:]}"


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__} {sqlstate(error) or ''}: {str(error)[:300]}".replace("\n", " ")
