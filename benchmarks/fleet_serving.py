"""Ten thousand customers, and one process that serves them all.

They are made, listed, asked for pending migrations, and served: one reading and one writing
request each. Serving is measured in processes of their own, as
`python -m benchmarks.fleet_serving DSN LIMIT TABLES SCHEMAS`: one of them has its connection
replaced as by default, the other one keeps it for all customers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from sqlalchemy import event, func, insert, select

from benchmarks.databases import with_driver
from benchmarks.fleet_databases import names, provision
from benchmarks.fleet_environments import write_our_environment
from benchmarks.fleet_models import base_of, table_name
from benchmarks.fleet_processes import Memory, memory_of
from benchmarks.measure import Summary, summarize
from benchmarks.memory import process_bytes
from onegov_orm import SessionManager
from onegov_orm.fleet import Fleet

#: More customers than any connection ever serves.
UNLIMITED: Final = 10**9
#: What the manager does unless told otherwise.
DEFAULT: Final = 0

_MILLISECONDS: Final = 1000
#: How often each question is asked.
_QUESTIONS: Final = 3
#: After so many customers the memory of the server's process is looked at.
_GLANCE: Final = 10
#: Customers that pass before the first measurement, until caches and pools are there.
_WARM_UP: Final = 100

_MEGABYTE: Final = 1024 * 1024

_VALUES: Final = {"name": "a", "created": func.now(), "is_public": True}


@dataclass(frozen=True)
class Served:
    """How one process served all customers.

    ``growth_mb`` is what it grew by; the server's process is the largest that was seen.
    """

    way: str
    seconds: float
    reading: Summary
    writing: Summary
    growth_mb: float
    backend: Memory | None
    connections: int


@dataclass(frozen=True)
class Result:
    """What was measured of a fleet of small schemas; times in milliseconds."""

    schemas: int
    tables: int
    provision: float
    listed: Summary
    schemas_listed: Summary
    overview: Summary
    pending: Summary
    served: list[Served]


def run(dsn: str, directory: Path, schemas: int, tables: int, workers: int) -> Result:
    """Make the customers in an empty database, list them, and serve them."""
    folder = write_our_environment(directory, tables)
    base = base_of(tables)
    seconds = provision(dsn, base, names(0, schemas), workers, migrations=folder)
    manager = SessionManager(with_driver(dsn, "psycopg2"), base)
    fleet = Fleet(manager, migrations=folder)
    found = Result(
        schemas,
        tables,
        seconds * _MILLISECONDS / schemas,
        asked(fleet.customers, schemas),
        asked(lambda: list(manager.list_schemas()), schemas),
        asked(fleet.overview, schemas),
        asked(lambda: fleet.status().schemas, schemas),
        [],
    )
    manager.dispose()
    found.served.extend(_serve(dsn, limit, tables, schemas) for limit in (DEFAULT, UNLIMITED))
    return found


def asked(question: Callable[[], Iterable[Any]], expected: int) -> Summary:
    """Return how many milliseconds an answer takes, which is about so many schemas."""
    found = []
    for _ in range(_QUESTIONS):
        started = perf_counter()
        answer = list(question())
        found.append((perf_counter() - started) * _MILLISECONDS)
        if len(answer) != expected:
            raise RuntimeError(f"{len(answer)} schemas were found instead of {expected}")
    return summarize(found)


def _serve(dsn: str, limit: int, tables: int, schemas: int) -> Served:
    command = [sys.executable, "-m", "benchmarks.fleet_serving", dsn]
    numbers = map(str, (limit, tables, schemas))
    output = subprocess.run([*command, *numbers], check=True, stdout=subprocess.PIPE).stdout
    found = json.loads(output)
    found["reading"], found["writing"] = Summary(**found["reading"]), Summary(**found["writing"])
    backend = found["backend"]
    return Served(**{**found, "backend": Memory(**backend) if backend else None})


class Server:
    """One process with one connection at a time, through which all customers pass."""

    def __init__(self, dsn: str, limit: int, tables: int) -> None:
        options: dict[str, Any] = {"max_schemas_per_connection": limit} if limit else {}
        pool = {"pool_size": 1, "max_overflow": 0}
        base = base_of(tables)
        url = with_driver(dsn, "psycopg2")
        self.manager = SessionManager(url, base, pool_config=pool, **options)
        self.table = base.metadata.tables[table_name(1)]
        self.way = "one connection for all" if limit else "connections replaced, as by default"
        #: The server's processes, and the most that each of them was seen to have.
        self.backends: dict[int, Memory | None] = {}
        event.listen(self.manager.engine, "connect", self.connect)

    def connect(self, connection: Any, _record: Any) -> None:
        """Note which of the server's processes serves us from now on."""
        self._backend = int(connection.info.backend_pid)
        self.backends[self._backend] = None

    def serve(self, schemas: Iterable[str]) -> tuple[list[float], list[float]]:
        """Serve each customer a reading and a writing request; return their milliseconds."""
        reading, writing = [], []
        for number, schema in enumerate(schemas):
            started = perf_counter()
            self.request(schema, select(func.count()).select_from(self.table))
            middle = perf_counter()
            self.request(schema, insert(self.table).values(_VALUES))
            reading.append((middle - started) * _MILLISECONDS)
            writing.append((perf_counter() - middle) * _MILLISECONDS)
            if not number % _GLANCE:
                self._glance()
        self._glance()
        return reading, writing

    def request(self, schema: str, statement: Any) -> None:
        """Serve one request."""
        with self.manager.schema(schema, create=False) as session:
            session.execute(statement)

    def largest(self) -> Memory | None:
        """Return the memory of the largest process of the server."""
        return max(filter(None, self.backends.values()), key=lambda each: each.own, default=None)

    def _glance(self) -> None:
        """Look at the server's process, where that is on this machine."""
        found, before = memory_of(self._backend), self.backends[self._backend]
        if found and (before is None or found.own > before.own):
            self.backends[self._backend] = found


def measure(dsn: str, limit: int, tables: int, schemas: Sequence[str]) -> Served:
    """Serve all customers in this process."""
    server = Server(dsn, limit, tables)
    warm_up = min(_WARM_UP, len(schemas) // 2)
    server.serve(schemas[:warm_up])
    before, started = process_bytes(), perf_counter()
    reading, writing = server.serve(schemas[warm_up:])
    seconds = perf_counter() - started
    growth = (process_bytes() - before) / _MEGABYTE
    largest, connections = server.largest(), len(server.backends)
    server.manager.dispose()
    return Served(
        server.way,
        seconds,
        summarize(reading),
        summarize(writing),
        growth,
        largest,
        connections,
    )


if __name__ == "__main__":
    _, where, maximum, tables_each, count = sys.argv
    served = measure(where, int(maximum), int(tables_each), names(0, int(count)))
    print(json.dumps(asdict(served)))
