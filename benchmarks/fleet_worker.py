"""What is measured of ours as a process: `python -m benchmarks.fleet_worker DSN FOLDER ...`.

It migrates a fleet, as a deployment does, and prints what came of it.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter
from typing import Any

from benchmarks.databases import with_driver
from benchmarks.fleet_models import base_of
from onegov_orm import SessionManager
from onegov_orm.fleet import Fleet, Outcome, RunOptions


def migrate(dsn: str, folder: str, workers: int, *, replay: bool) -> dict[str, Any]:
    """Migrate all customers, and return how many were done in how many seconds."""
    pool = {"pool_size": workers, "max_overflow": 1}
    manager = SessionManager(with_driver(dsn, "psycopg2"), base_of(), pool_config=pool)
    started = perf_counter()
    report = Fleet(manager, migrations=folder).migrate(
        options=RunOptions(workers=workers), replay=replay
    )
    seconds = perf_counter() - started
    manager.dispose()
    if not report.is_ok:
        raise RuntimeError(f"not all were migrated: {report.of(Outcome.FAILED)[:1]}")
    return {"seconds": seconds, "done": len(report.of(Outcome.DONE))}


if __name__ == "__main__":
    _, where, environment, number, way = sys.argv
    print(json.dumps(migrate(where, environment, int(number), replay=way == "replay")))
