"""How much a process grows while ten thousand customers pass through it.

It is measured in a process of its own: `python -m benchmarks.memory DSN FIRST COUNT`.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import transaction
from sqlalchemy import text

from benchmarks.databases import run as run_sql
from benchmarks.databases import with_driver
from benchmarks.models import RequestBase
from onegov_orm import SessionManager

#: Schemas that pass before the first measurement, until caches and pools are there.
_WARM_UP: Final = 200

_CHUNK: Final = 250
_MEGABYTE: Final = 1024 * 1024
_STATUS: Final = Path("/proc/self/status")


@dataclass(frozen=True)
class Growth:
    """How much memory was taken by that many schemas, in MB."""

    schemas: int
    process: float
    #: The memory of the server's process, whose catalog cache knows each schema.
    backend: float


def run(dsn: str, schemas: int) -> Growth:
    """Create schemas without tables, and let a session of each one execute a statement."""
    names = _names(0, schemas + _WARM_UP)
    for start in range(0, len(names), _CHUNK):
        chunk = names[start : start + _CHUNK]
        run_sql(dsn, "; ".join(f'CREATE SCHEMA "{name}"' for name in chunk))
    command = [sys.executable, "-m", "benchmarks.memory", dsn, str(schemas)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    found = json.loads(output)
    return Growth(schemas, found["process"], found["backend"])


def _names(start: int, stop: int) -> list[str]:
    return [f"memory-{number}" for number in range(start, stop)]


def _pass_through(manager: SessionManager, schemas: Sequence[str]) -> None:
    for schema in schemas:
        manager.set_current_schema(schema, create=False)
        manager.session().execute(text("SELECT 1"))
        transaction.commit()


def _backend_bytes(manager: SessionManager) -> int:
    sql = "SELECT sum(total_bytes) FROM pg_catalog.pg_backend_memory_contexts"
    with manager.engine.connect() as connection:
        return int(connection.execute(text(sql)).scalar_one())


def process_bytes() -> int:
    """Return the memory that the process occupies now; where that is unknown, its maximum."""
    gc.collect()
    if _STATUS.exists():
        (line,) = (each for each in _STATUS.read_text().splitlines() if each.startswith("VmRSS"))
        return int(line.split()[1]) * 1024
    # The module is missing on Windows, which has no /proc either.
    import resource

    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024


def measure(dsn: str, schemas: int) -> dict[str, Any]:
    """Return the growth of this process and of its backend, in MB."""
    # One connection, so that all schemas pass through the same one.
    pool: dict[str, Any] = {"pool_size": 1, "max_overflow": 0}
    manager = SessionManager(with_driver(dsn, "psycopg2"), RequestBase, pool_config=pool)
    _pass_through(manager, _names(0, _WARM_UP))
    process, backend = process_bytes(), _backend_bytes(manager)
    _pass_through(manager, _names(_WARM_UP, _WARM_UP + schemas))
    grown = {
        "process": (process_bytes() - process) / _MEGABYTE,
        "backend": (_backend_bytes(manager) - backend) / _MEGABYTE,
    }
    manager.dispose()
    return grown


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
