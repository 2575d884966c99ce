"""Counts what requests cost: statements in SQLAlchemy, round trips on the wire.

The round trips are counted by the proxy of the benchmarks, between the application and the
server, since nothing in the client knows them all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url

from benchmarks.wire import WireProxy

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass
class Cost:
    """What the requests of one kind have cost together."""

    requests: int = 0
    statements: int = 0
    round_trips: int = 0
    seconds: float = 0.0


class Meter:
    """Sums up the cost of requests by their kind."""

    def __init__(self, engine: Engine, proxy: WireProxy | None) -> None:
        self.costs: defaultdict[str, Cost] = defaultdict(Cost)
        self.counts_round_trips = proxy is not None
        #: Whether ``BEGIN`` costs no round trip: so it is with psycopg2.
        self.folds_begin = engine.driver == "psycopg2"
        self._proxy = proxy
        self._statements = 0
        event.listen(engine, "after_cursor_execute", self._after_cursor_execute)

    @contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Add what the block costs; for one thread at a time."""
        if self._proxy is not None:
            self._proxy.reset()
        statements_before, start = self._statements, perf_counter()
        yield
        cost = self.costs[kind]
        cost.seconds += perf_counter() - start
        cost.statements += self._statements - statements_before
        cost.requests += 1
        if self._proxy is not None:
            cost.round_trips += self._proxy.snapshot().round_trips

    def total(self) -> Cost:
        """Return the cost of all requests."""
        costs = self.costs.values()
        return Cost(
            sum(cost.requests for cost in costs),
            sum(cost.statements for cost in costs),
            sum(cost.round_trips for cost in costs),
            sum(cost.seconds for cost in costs),
        )

    def _after_cursor_execute(self, *args: Any) -> None:
        self._statements += 1


@contextmanager
def counted(dsn: str) -> Iterator[tuple[str, WireProxy | None]]:
    """Have the wire counted: yields the URL to use in the place of the given one.

    Only on this machine: the proxy reads along, which an encrypted connection rules out.
    """
    url = make_url(dsn)
    if url.host not in LOOPBACK or "sslmode" in url.query:
        yield dsn, None
        return
    with WireProxy(url.host, url.port or 5432) as proxy:
        yield proxy.dsn(dsn), proxy
