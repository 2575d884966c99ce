"""The request loop: how long a request takes, and how often it goes to the server."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy.engine import make_url

from benchmarks import tenants
from benchmarks.asynchronous import ASYNC_DRIVERS, async_field
from benchmarks.contestants import (
    BARE,
    ENGINES,
    JOINED,
    REQUESTS,
    Contestant,
    Plan,
    Request,
    field,
)
from benchmarks.databases import ROWS_PER_SCHEMA, tidy, with_driver
from benchmarks.measure import Batch, Preparer, Summary, Timing, ratios, summarize, take_turns
from benchmarks.wire import WireProxy

#: How many requests are counted on the wire, of how many schemas at the most.
_COUNTED: Final = 10
_COUNTED_SCHEMAS: Final = 5

#: psycopg 3 prepares a statement when it is executed for the sixth time, by a message more.
_WARM_UP: Final = 8

_MILLISECONDS: Final = 1000
_DJANGO: Final = "django"
_DEFAULT_PORT: Final = 5432


@dataclass(frozen=True)
class Scenario:
    """Which requests are served, to how many customers, over which network."""

    driver: str
    request: Request
    schemas: int
    delay_ms: float

    @property
    def title(self) -> str:
        """A sentence for people."""
        customers = "one schema" if self.schemas == 1 else f"random schema of {self.schemas}"
        network = f"{self.delay_ms:g} ms per round trip" if self.delay_ms else "local"
        return f"{self.driver}, {self.request.name} request, {customers}, {network}"


@dataclass(frozen=True)
class Amount:
    """How much is measured."""

    rounds: int
    batch_size: int


@dataclass(frozen=True)
class Row:
    """What was measured of one contestant."""

    contestant: str
    baseline: str
    round_trips: float
    milliseconds: Summary
    #: How much of it this process was at work.
    processor: Summary
    ratio: Summary
    #: Compared with an engine per schema, where there are several.
    to_engines: Summary | None


@dataclass(frozen=True)
class Result:
    """What was measured in one scenario."""

    title: str
    driver: str
    request: str
    schemas: int
    delay_ms: float
    rows: list[Row]


Field = Callable[[str, Sequence[str]], list[Contestant]]


def scenarios(drivers: Sequence[str], schemas: int, delay_ms: float) -> Iterator[Scenario]:
    """Yield what is to be measured: all of it locally, and one schema with a delay."""
    names = [*drivers, *([_DJANGO] if tenants.is_available() else [])]
    for driver in names:
        for request in REQUESTS:
            yield Scenario(driver, request, 1, 0.0)
            yield Scenario(driver, request, schemas, 0.0)
            yield Scenario(driver, request, 1, delay_ms)


def run(dsn: str, schemas: Sequence[str], scenario: Scenario, amount: Amount) -> Result:
    """Measure one scenario; the schemas exist."""
    used = schemas[: scenario.schemas]
    tidy(dsn, used)
    trips = count_round_trips(dsn, used, scenario)
    url = _url(dsn, scenario.driver)
    with (
        _way(url, scenario.delay_ms) as address,
        _contestants(address, used, scenario) as contestants,
    ):
        timings = take_turns(
            {each.name: _preparer(each, scenario, used, amount) for each in contestants},
            amount.rounds,
        )
        rows = [_row(each, trips[each.name], timings, amount) for each in contestants]
    return Result(
        scenario.title,
        scenario.driver,
        scenario.request.name,
        scenario.schemas,
        scenario.delay_ms,
        rows,
    )


def count_round_trips(dsn: str, schemas: Sequence[str], scenario: Scenario) -> dict[str, float]:
    """Return the round trips per request of each contestant, counted on the wire."""
    counts = {}
    some = schemas[:_COUNTED_SCHEMAS]
    plan = _plan(random.Random(_COUNTED), some, _COUNTED)
    dsn = _url(dsn, scenario.driver)
    with wire_proxy(dsn, 0.0) as proxy, _contestants(proxy.dsn(dsn), some, scenario) as found:
        for contestant in found:
            _requests(contestant, scenario.request, [(name, 1) for name in some] * _WARM_UP)()
            proxy.reset()
            _requests(contestant, scenario.request, plan)()
            counts[contestant.name] = proxy.snapshot().round_trips / _COUNTED
    return counts


def wire_proxy(dsn: str, delay_ms: float) -> WireProxy:
    url = make_url(dsn)
    if url.host is None or url.host.startswith("/"):
        raise ValueError("round trips are counted over TCP: give a dsn with a host")
    return WireProxy(url.host, url.port or _DEFAULT_PORT, delay_ms / _MILLISECONDS)


def _url(dsn: str, driver: str) -> str:
    return with_driver(dsn, None if driver == _DJANGO else ASYNC_DRIVERS.get(driver, driver))


@contextmanager
def _way(dsn: str, delay_ms: float) -> Iterator[str]:
    with wire_proxy(dsn, delay_ms) if delay_ms else nullcontext() as proxy:
        yield proxy.dsn(dsn) if proxy else dsn


@contextmanager
def _contestants(
    dsn: str, schemas: Sequence[str], scenario: Scenario
) -> Iterator[list[Contestant]]:
    fields = {_DJANGO: tenants.django_field} | dict.fromkeys(ASYNC_DRIVERS, async_field)
    contestants = fields.get(scenario.driver, field)(dsn, schemas)
    try:
        yield contestants
    finally:
        for contestant in contestants:
            contestant.close()


def _preparer(
    contestant: Contestant, scenario: Scenario, schemas: Sequence[str], amount: Amount
) -> Preparer:
    dice = random.Random(len(schemas))
    # Connections are opened, and every schema was seen, before anything is timed.
    _requests(contestant, scenario.request, [(name, 1) for name in schemas])()

    def prepare() -> Batch:
        plan = _plan(dice, schemas, amount.batch_size)
        return _requests(contestant, scenario.request, plan)

    return prepare


def _plan(dice: random.Random, schemas: Sequence[str], size: int) -> Plan:
    return [(dice.choice(schemas), dice.randint(1, ROWS_PER_SCHEMA)) for _ in range(size)]


def _requests(contestant: Contestant, request: Request, plan: Plan) -> Batch:
    return partial(contestant.serve_all, request, plan)


def _row(contestant: Contestant, trips: float, timings: dict[str, Timing], amount: Amount) -> Row:
    own = timings[contestant.name]
    engines = timings.get(_engines_of(contestant))
    scale = _MILLISECONDS / amount.batch_size
    return Row(
        contestant.name,
        contestant.baseline,
        trips,
        summarize([value * scale for value in own.elapsed]),
        summarize([value * scale for value in own.processor]),
        summarize(ratios(own.elapsed, timings[contestant.baseline].elapsed)),
        summarize(ratios(own.elapsed, engines.elapsed)) if engines else None,
    )


def _engines_of(contestant: Contestant) -> str:
    return ENGINES if contestant.baseline == BARE else ENGINES + JOINED
