"""The driver of a storm of tasks: the same as `storm`, and tasks are cancelled at any moment.

Each worker is a task. Operations that were written for threads run in SQLAlchemy's greenlet,
on the synchronous session of the asynchronous one.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import await_only, greenlet_spawn

from onegov_orm import AsyncSessionManager
from onegov_orm._attempts import is_retryable
from tests.asynchronous import until
from tests.models import Base, Document
from tests.storms.customers import (
    CUSTOMERS,
    TRACES,
    StormFailure,
    UnexpectedError,
    Watch,
    check_traces,
    number,
)
from tests.storms.storm import Operation, Storm, Weather, Worker

#: How many steps pass between two looks from outside.
WATCH_EVERY: Final = 400

#: Who waits longer, waits for ever.
LIMIT_SECONDS: Final = 60

#: Who waits for a lock that is held by a sleeper would wait for ever; in milliseconds.
LOCK_TIMEOUT: Final = 20_000
#: Deadlocks belong to a storm, and need not take a second each; in milliseconds.
DEADLOCK_TIMEOUT: Final = 20

#: A table that is not the same for all customers, and changes.
TRAITS: Final = """
    CREATE TABLE "{schema}".traits (id serial, owner text, kind {kind});
    INSERT INTO "{schema}".traits (owner, kind) VALUES ('{schema}', {value})
"""

_worker: ContextVar[AsyncWorker] = ContextVar("worker")


@dataclass(frozen=True)
class AsyncWeather(Weather):
    """What a storm of tasks is like."""

    #: How often a step is cancelled.
    cancels: float = 0.03

    def new_manager(self, dsn: str) -> Any:
        """Make a manager for this weather."""
        timeouts = {"lock_timeout": LOCK_TIMEOUT, "deadlock_timeout": DEADLOCK_TIMEOUT}
        if "asyncpg" in dsn:
            settings = {name: f"{ms}ms" for name, ms in timeouts.items()}
            arguments: Any = {"server_settings": settings}
        else:
            arguments = {"options": " ".join(f"-c {name}={ms}" for name, ms in timeouts.items())}
        return AsyncSessionManager(
            dsn,
            Base,
            {"connect_args": arguments},
            pool_config={
                "pool_size": self.pool_size,
                "max_overflow": self.max_overflow,
                "pool_timeout": LIMIT_SECONDS,
            },
            strict=self.strict,
            pipeline=self.pipeline,
        )


WEATHERS: Final = (
    AsyncWeather("one connection", "plain", exact=True, strict=True),
    AsyncWeather("one connection, kills", "plain", kills=True, pipeline=True),
    AsyncWeather("side by side", "plain", pool_size=3, max_overflow=5, pipeline=True),
    AsyncWeather("fifty tasks over two", "plain", workers=50, pool_size=2, kills=True),
    AsyncWeather(
        "a thousand tasks over ten",
        "plain",
        workers=1000,
        pool_size=10,
        kills=True,
        exact=True,
        pipeline=True,
    ),
)


class Cancellation:
    """Cancels a task at a random moment, once or twice."""

    def __init__(self, worker: AsyncWorker) -> None:
        self._task: Any = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._times = worker.one_of((1, 1, 2))
        self.requests = 0
        self._handle: Any = self._loop.call_later(worker.moment(), self._cancel)

    def _cancel(self) -> None:
        self.requests += 1
        self._task.cancel()
        if self.requests < self._times:
            self._handle = self._loop.call_soon(self._cancel)

    async def finish(self, is_raised: bool) -> None:
        """Have the task go on as if nothing had happened."""
        self._handle.cancel()
        if not self.requests:
            return
        try:
            # What was asked for at the very end is raised now.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            is_raised = True
        while self._task.cancelling():
            self._task.uncancel()
        if not is_raised:
            raise UnexpectedError("somebody swallowed a cancellation")


class AsyncWorker(Worker):
    """One task: it is at one customer's at a time, and moves on at will."""

    storm: AsyncStorm

    def __init__(
        self, storm: AsyncStorm, number: int, customers: Sequence[str] = CUSTOMERS, depth: int = 0
    ) -> None:
        super().__init__(storm, number, customers)
        #: How many tasks there are above this one.
        self.depth = depth
        #: The keys of what was written in transactions whose end is not known.
        self.touched: set[int] = set()
        #: Whether this worker was asked to end its step; not each cancellation is its own.
        self.is_cancelled: Callable[[], bool] = lambda: False
        self._opened: dict[str, AsyncSession] = {}

    @property
    def is_tight(self) -> bool:
        """Whether this worker has to let go of a connection before it takes another.

        Two tasks that have two connections each may wait for each other for ever.
        """
        return self.depth > 0 or super().is_tight

    @property
    def session(self) -> Any:
        """The synchronous session of the customer, for who runs in the greenlet."""
        return await_only(self.open()).sync_session

    async def open(self) -> AsyncSession:
        """Return the session of the customer."""
        await self.manager.set_current_schema(self.schema)
        session: AsyncSession = self.manager.session()
        self._opened[self.schema] = session
        return session

    def moment(self) -> float:
        """Return for how long to wait before something is cancelled, in seconds."""
        longest: float = self.one_of((0, 0.0005, 0.002, 0.01))
        return self.random.random() * longest

    def child(self) -> AsyncWorker:
        """Return a worker for a child task."""
        child = AsyncWorker(self.storm, next(self.storm.numbers), CUSTOMERS, self.depth + 1)
        child.schema = self.schema
        return child

    # -- transactions

    def commit(self) -> None:
        """Commit, for who runs in the greenlet."""
        await_only(self.end_by("commit"))

    def rollback(self) -> None:
        """Roll back, for who runs in the greenlet."""
        await_only(self.end_by("rollback"))

    async def end_by(self, verb: str) -> None:
        """Commit or roll back."""
        if self.unread:
            await greenlet_spawn(self.close_unread)
        for session in list(self._opened.values()):
            await getattr(session, verb)()
        self.touched.clear()

    async def finish(self) -> None:
        """Commit or roll back, whatever comes."""
        await self.end_by(self.one_of(("commit", "commit", "rollback")))

    async def leave(self) -> None:
        """End what is open, if another connection might not be had otherwise."""
        if self.is_tight:
            await self.finish()

    # -- steps

    async def work(self, steps: int) -> None:
        """Do steps, and leave nothing open."""
        _worker.set(self)
        try:
            for _ in range(steps):
                if self.storm.is_over:
                    return
                await self.take(self.storm.choose(self))
                if self.storm.log.steps % WATCH_EVERY == 0:
                    await asyncio.to_thread(self.storm.look)
        finally:
            await self.recover_later()

    async def take(self, operation: Operation) -> None:
        """Do one thing; an error that no storm excuses is a failure."""
        error: BaseException | None = None
        try:
            error = await self._outcome(operation)
        except StormFailure as failure:
            self.storm.log.add(self, operation.name, failure)
            raise
        except Exception as found:  # what is wrong with it, is decided below
            error = leaf_of(found)
            if isinstance(error, StormFailure):
                raise error from found
        self.storm.log.add(self, operation.name, error)
        if error is not None:
            if isinstance(error, asyncio.CancelledError):
                self.storm.doubt(self, error)
                # What can't be left clean is closed, and the rollback says so.
                self._may_be_lost = True
            else:
                self._excuse(error, operation.name)
            await self.recover_later()

    async def _outcome(self, operation: Operation) -> asyncio.CancelledError | None:
        self.is_cancelled = lambda: False
        if not self.chance(self.storm.weather.cancels):
            await self.run(operation)
            return None
        ways = (self._cancel, self._cancel, self._time_out, self._cancel_child)
        return await self.one_of(ways)(operation)

    async def run(self, operation: Operation) -> None:
        """Run an operation of either kind."""
        if iscoroutinefunction(operation.run):
            await operation.run(self)
        else:
            await greenlet_spawn(operation.run, self)

    async def _cancel(self, operation: Operation) -> asyncio.CancelledError | None:
        cancellation = Cancellation(self)
        self.is_cancelled = lambda: cancellation.requests > 0
        error = None
        try:
            await self.run(operation)
        except asyncio.CancelledError as cancelled:
            if not cancellation.requests:
                raise
            error = cancelled
        finally:
            await cancellation.finish(is_raised=error is not None)
        return error

    async def _time_out(self, operation: Operation) -> asyncio.CancelledError | None:
        try:
            async with asyncio.timeout(self.moment()) as limit:
                self.is_cancelled = limit.expired
                await self.run(operation)
        except TimeoutError as error:
            if not limit.expired() or not isinstance(error.__cause__, asyncio.CancelledError):
                raise
            return error.__cause__
        return None

    async def _cancel_child(self, operation: Operation) -> asyncio.CancelledError | None:
        """Have a child do it, and cancel the child: nobody tidies up after it."""
        await self.finish()
        child = self.child()
        task = asyncio.create_task(child.run_as_child(operation))
        # The parent may be a child that is cancelled itself, and ask no more.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        await asyncio.wait([task], timeout=self.moment())
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            return asyncio.CancelledError()
        task.result()
        return None

    async def run_as_child(self, operation: Operation) -> None:
        """Do one thing, and leave what is open to those who tidy up."""
        _worker.set(self)
        try:
            await self.run(operation)
        except BaseException as error:
            self.storm.doubt(self, error)
            raise

    def kill(self, pid: int | None = None) -> None:
        """Have a backend killed from outside, for who runs in the greenlet."""
        self._may_be_lost = True
        await_only(asyncio.to_thread(self.storm.killer.kill, pid))

    def recover(self) -> None:
        """Start anew after an error, for who runs in the greenlet."""
        await_only(self.recover_later())

    async def recover_later(self) -> None:
        """Start anew after an error."""
        for _attempt in range(3):
            try:
                await self.end_by("rollback")
            except Exception as error:
                self._excuse(error, "recover")
            else:
                self._may_be_lost = False
                return
        raise UnexpectedError("three times in a row, no rollback succeeded")

    def _excuse(self, error: BaseException, operation: str) -> None:
        self.storm.doubt(self, error)
        # That of the table that changes; a caller would try again.
        if is_retryable(error) and "traits" in str(error):
            return
        super()._excuse(error, operation)

    def _may_lose(self) -> bool:
        # The victim of a kill that was cancelled, or a child's, is met later.
        return self.storm.weather.kills or self._may_be_lost


class Ledger:
    """What a manager announced, to be compared with what was committed."""

    def __init__(self, manager: Any) -> None:
        self.inserts: Counter[int] = Counter()
        self.deletes: Counter[int] = Counter()
        #: The same, as it was told to a subscriber who is awaited.
        self.awaited: Counter[int] = Counter()
        #: What was deleted in some transaction, whatever became of it.
        self.deleted: set[int] = set()
        #: What nobody can know: the connection was lost during the commit.
        self.unknown: set[int] = set()
        #: How the transactions ended for which there was a hook, and which document was in them.
        self.ends: dict[int, list[str]] = {}
        self.documents: dict[int, int] = {}
        self.expected_errors = self.errors = 0
        for name in ("on_commit", "on_insert", "on_delete", "on_hook_error"):
            getattr(manager, name).connect(getattr(self, name), weak=False)
        manager.on_commit.connect(self.on_commit_later, weak=False)

    def on_commit(self, schema: str, changes: Any) -> None:
        self.inserts.update(_keys(changes.inserts))
        self.deletes.update(_keys(changes.deletes))

    async def on_commit_later(self, schema: str, changes: Any) -> None:
        await asyncio.sleep(0)
        self.awaited.update(_keys(changes.inserts))

    def on_insert(self, schema: str, obj: Any) -> None:
        if isinstance(obj, Document):
            _worker.get().touched.add(obj.id)

    def on_delete(self, schema: str, session: Any, obj: Any) -> None:
        if isinstance(obj, Document):
            _worker.get().touched.add(obj.id)
            self.deleted.add(obj.id)

    def on_hook_error(self, schema: str, error: Any, hook: Any) -> None:
        self.errors += 1

    def check(self, execute: Any) -> None:
        """Raise unless what was announced is exactly what is there."""
        found = set()
        for schema in CUSTOMERS:
            sql = f"SELECT id FROM \"{schema}\".documents WHERE color = 'RED'"
            found |= {key for (key,) in execute(sql)}
        announced = set(self.inserts) - set(self.deletes)
        self._demand("announced, and not there", announced - found)
        self._demand("there, and not announced", found - announced)
        twice = {key for key, times in self.inserts.items() if times > 1}
        self._demand("announced twice", twice)
        self._demand("told to one subscriber", set(self.inserts) ^ set(self.awaited))
        self._check_hooks()

    def _check_hooks(self) -> None:
        not_once = {token: ends for token, ends in self.ends.items() if len(ends) != 1}
        if not_once:
            raise UnexpectedError(f"hooks that did not run exactly once: {not_once}")
        for token, key in self.documents.items():
            is_announced = key in self.inserts
            is_committed = self.ends[token] == ["commit"]
            if is_announced != is_committed and key not in self.deleted | self.unknown:
                raise UnexpectedError(
                    f"hook of document {key}: {self.ends[token]}, announced: {is_announced}"
                )
        if self.errors != self.expected_errors:
            raise UnexpectedError(f"{self.errors} of {self.expected_errors} errors were reported")

    def _demand(self, what: str, keys: set[int]) -> None:
        if keys - self.unknown:
            raise UnexpectedError(f"{what}: documents {sorted(keys - self.unknown)[:10]}")


def _keys(changes: Any) -> list[int]:
    return [key[1][0] for key in changes if issubclass(key[0], Document)]


class AsyncStorm(Storm):
    """Tasks on one manager, until all steps are done or one fails; made inside the loop."""

    weather: AsyncWeather

    def __init__(
        self,
        weather: AsyncWeather,
        dsn: str,
        watches: Callable[[], Watch],
        seed: int,
        operations: Any,
    ) -> None:
        super().__init__(weather, dsn, watches(), seed, operations)
        #: A look from outside may wait for a lock; who kills must not wait for the look.
        self.killer = watches()
        self.numbers = iter(range(weather.workers, 10**9))
        self.guests = iter(range(8))
        self.is_over = False
        self.ledger = Ledger(self.manager) if weather.exact else None

    # -- what is done

    async def begin(self) -> None:  # type: ignore[override]
        """Make the customers' schemas, in tasks that get into each other's way."""
        async with asyncio.TaskGroup() as group:
            for worker in range(min(4, self.weather.workers)):
                group.create_task(self._provision_later(worker))
        for schema in CUSTOMERS:
            is_text = number(schema) % 2
            kind, value = ("text", f"'t{number(schema)}'") if is_text else ("int", number(schema))
            self.watch.execute(TRAITS.format(schema=schema, kind=kind, value=value))
        self.watch.begin()

    async def run(self, steps: int) -> None:  # type: ignore[override]
        """Do the steps; raises `StormFailure` with the seed and the last steps."""
        each = -(-steps // self.weather.workers)
        started = time.monotonic()
        workers = [AsyncWorker(self, number) for number in range(self.weather.workers)]
        tasks = [asyncio.create_task(self._guarded_work(worker, each)) for worker in workers]
        _done, late = await asyncio.wait(tasks, timeout=LIMIT_SECONDS)
        if late:
            failure = UnexpectedError(f"stuck: {_stuck(late)}\n{self.holders()}")
            self._failures.insert(0, (self.log.steps, failure))
        self._raise_failure()
        try:
            await self._check_end()
        except StormFailure as failure:
            raise type(failure)(self.explain(failure)) from failure
        self.seconds = time.monotonic() - started
        if self.log.steps < steps:
            raise UnexpectedError(f"only {self.log.steps} of {steps} steps were done")

    async def close(self) -> None:  # type: ignore[override]
        """Let go of everything."""
        self.is_over = True
        mine = {asyncio.current_task()}
        while left := asyncio.all_tasks() - mine:
            for task in left:
                task.cancel()
            await asyncio.wait(left)
        with suppress(Exception):
            await self.manager.dispose()
        self.watch.finish()
        gc.collect()

    def holders(self) -> str:
        """Return what the pool is like, and who has its connections."""
        pool: Any = self.manager.sync_engine.pool
        holders = self.manager._holders.list()
        return "\n".join([pool.status(), *(f"  {holder}" for holder in holders)])

    def choose(self, worker: AsyncWorker) -> Operation:
        """Choose the next operation of a worker."""
        (operation,) = worker.random.choices(self.operations, self._weights)
        return operation

    def doubt(self, worker: AsyncWorker, error: BaseException) -> None:
        """Note that nobody can know what was committed, if the connection may be lost."""
        # A commit is brought to its end before a cancellation; this tells if it failed.
        cause = error.__cause__ if isinstance(error, asyncio.CancelledError) else error
        if self.ledger is not None and self.weather.kills and cause is not None:
            self.ledger.unknown |= worker.touched

    # -- inside

    async def _provision_later(self, number: int) -> None:
        names = list(CUSTOMERS)
        random.Random(f"{self.seed}-{number}").shuffle(names)
        for name in names:
            await self.manager.set_current_schema(name)

    async def _guarded_work(self, worker: AsyncWorker, steps: int) -> None:
        try:
            await worker.work(steps)
        except BaseException as failure:
            self._failures.append((self.log.steps, failure))
            self.is_over = True

    async def _check_end(self) -> None:
        pool: Any = self.manager.sync_engine.pool
        try:
            await until(lambda: not pool.checkedout())
        except TimeoutError:
            raise UnexpectedError(f"not all came back: {self.holders()}") from None
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            raise UnexpectedError(f"tasks are left behind: {left}")
        self.look()
        await self._check_pool()
        if self.ledger is not None:
            self.ledger.check(self.watch.execute)

    async def _check_pool(self) -> None:
        """Raise unless all connections that are in the pool now are nobody's."""
        engine = self.manager.engine
        connections = [await engine.connect() for _ in range(self.weather.pool_size)]
        for connection in connections:
            await greenlet_spawn(partial(_check_nobodys, connection.sync_connection))
            await connection.close()


def _check_nobodys(connection: Any) -> None:
    check_traces(None, connection.exec_driver_sql(TRACES).one())


def _stuck(tasks: set[asyncio.Task[None]]) -> str:
    """Return where the first of the tasks is, through all that it awaits."""
    awaited: Any = next(iter(tasks)).get_coro()
    places = []
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        places.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}" if frame else repr(awaited))
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
    return ", then ".join(places)


def leaf_of(error: BaseException) -> BaseException:
    """Return what a group of errors is about: a failure of the storm's, or the first error."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [leaf_of(each) for each in error.exceptions]
    failures = [leaf for leaf in leaves if isinstance(leaf, StormFailure)]
    return (failures or leaves)[0]
