"""Many tasks at once, for many customers, through a pool of ten connections.

All tasks begin together and serve one request after the other, so that a request waits for a
connection most of its time. What counts is how many are served in a second, and how long the
unluckiest ones take. The isolation level is a weaker one than elsewhere: bare SQLAlchemy has
all its tasks in one schema, where serializable transactions would make each other fail.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from benchmarks.asynchronous import (
    ASYNC_DRIVERS,
    AsyncBlock,
    AsyncPlain,
    InLoop,
    async_bare,
    async_session_of,
)
from benchmarks.contestants import BARE, BARE_AGAIN, BLOCK, OURS, REQUESTS, Plan, Request
from benchmarks.databases import ROWS_PER_SCHEMA, tidy, with_driver
from benchmarks.measure import Batch, Preparer, Summary, percentile, ratios, summarize, take_turns
from benchmarks.models import RequestBase
from onegov_orm import AsyncSessionManager

POOL_SIZE: Final = 10
ISOLATION_LEVEL: Final = "READ COMMITTED"

_POOL: Final = {"pool_size": POOL_SIZE, "max_overflow": 0, "pool_timeout": 300}
_ONE_SCHEMA: Final = ", one schema"
_MILLISECONDS: Final = 1000


@dataclass(frozen=True)
class Load:
    """How much is to be done at once, and how often that is measured."""

    tasks: int
    requests_per_task: int
    rounds: int


@dataclass(frozen=True)
class Row:
    """What was measured of one contestant; percentiles in milliseconds."""

    contestant: str
    per_second: Summary
    p50: Summary
    p95: Summary
    p99: Summary
    #: The time for all requests, and the 99th percentile, compared with bare SQLAlchemy.
    ratio: Summary
    p99_ratio: Summary


@dataclass(frozen=True)
class Result:
    """What was measured with one driver and one kind of requests."""

    title: str
    driver: str
    request: str
    tasks: int
    schemas: int
    rows: list[Row]


class Crowd(InLoop):
    """A contestant whose tasks all run at once; notes how long each request took."""

    def __init__(self, contestant: Any, schemas: Sequence[str]) -> None:
        super().__init__(contestant)
        self.schemas = schemas
        #: The seconds of each request, one list for each batch.
        self.latencies: list[list[float]] = []

    async def _serve_all(self, request: Request, plan: Plan) -> None:
        """Serve a batch whose tasks serve one request each."""
        await self.serve_crowd(request, [[each] for each in plan])

    async def serve_crowd(self, request: Request, plans: Sequence[Plan]) -> None:
        """Have a task for each plan, all of them at once."""
        seconds: list[float] = []
        serve = self._contestant.serve

        async def work(plan: Plan) -> None:
            for schema, key in plan:
                start = perf_counter()
                await serve(request, schema, key)
                seconds.append(perf_counter() - start)

        async with asyncio.TaskGroup() as group:
            for plan in plans:
                group.create_task(work(plan))
        self.latencies.append(seconds)


def run(dsn: str, schemas: Sequence[str], drivers: Sequence[str], load: Load) -> Iterator[Result]:
    """Measure the asynchronous ones among the drivers; the schemas exist."""
    for driver in drivers:
        if driver in ASYNC_DRIVERS:
            url = with_driver(dsn, ASYNC_DRIVERS[driver])
            for request in REQUESTS:
                tidy(dsn, schemas)
                yield _measure(url, driver, schemas, request, load)


def _measure(
    url: str, driver: str, schemas: Sequence[str], request: Request, load: Load
) -> Result:
    with _crowds(url, schemas) as crowds:
        timings = take_turns(
            {each.name: _preparer(each, request, load) for each in crowds}, load.rounds
        )
        bare = crowds[0]
        reference = timings[bare.name].elapsed
        rows = [_row(each, timings[each.name].elapsed, bare, reference, load) for each in crowds]
    title = (
        f"{driver}, {request.name} requests of {load.tasks} tasks over {len(schemas)} schemas, "
        f"pool of {POOL_SIZE}"
    )
    return Result(title, driver, request.name, load.tasks, len(schemas), rows)


@contextmanager
def _crowds(url: str, schemas: Sequence[str]) -> Iterator[list[Crowd]]:
    options: dict[str, Any] = {"isolation_level": ISOLATION_LEVEL, **_POOL}
    first = schemas[:1]
    plain, block, single = (_manager(url) for _ in range(3))
    crowds = [
        Crowd(async_bare(url, first[0], BARE, **options), first),
        Crowd(async_bare(url, first[0], BARE_AGAIN, **options), first),
        Crowd(AsyncPlain(OURS, async_session_of(plain), plain.dispose), schemas),
        Crowd(AsyncBlock(OURS + BLOCK, block), schemas),
        Crowd(AsyncBlock(OURS + BLOCK + _ONE_SCHEMA, single), first),
    ]
    try:
        yield crowds
    finally:
        for each in crowds:
            each.close()


def _manager(url: str) -> AsyncSessionManager:
    return AsyncSessionManager(
        url, RequestBase, pool_config=_POOL, isolation_level=ISOLATION_LEVEL
    )


def _preparer(crowd: Crowd, request: Request, load: Load) -> Preparer:
    dice = random.Random(load.tasks)
    # Connections are opened, and every schema was seen, before anything is timed.
    crowd.serve_all(request, [(schema, 1) for schema in crowd.schemas])

    def prepare() -> Batch:
        plans = [_plan(dice, crowd.schemas, number, load) for number in range(load.tasks)]
        return lambda: crowd.run(crowd.serve_crowd(request, plans))

    return prepare


def _plan(dice: random.Random, schemas: Sequence[str], number: int, load: Load) -> Plan:
    # Neighbours have different rows, so that no task waits for another one's lock.
    key = number % ROWS_PER_SCHEMA + 1
    return [(dice.choice(schemas), key) for _ in range(load.requests_per_task)]


def _row(
    crowd: Crowd, elapsed: list[float], bare: Crowd, reference: list[float], load: Load
) -> Row:
    requests = load.tasks * load.requests_per_task
    tails = _percentiles(crowd, 99, load)
    return Row(
        crowd.name,
        summarize([requests / seconds for seconds in elapsed]),
        summarize(_percentiles(crowd, 50, load)),
        summarize(_percentiles(crowd, 95, load)),
        summarize(tails),
        summarize(ratios(elapsed, reference)),
        summarize(ratios(tails, _percentiles(bare, 99, load))),
    )


def _percentiles(crowd: Crowd, percent: int, load: Load) -> list[float]:
    # What comes before belongs to the warm-up.
    return [percentile(each, percent) * _MILLISECONDS for each in crowd.latencies[-load.rounds :]]
