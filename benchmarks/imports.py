"""How long `import onegov_orm` takes, compared with importing what it depends on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.measure import Summary, ratios, summarize

OURS: Final = ("onegov_orm",)

#: What the main job can't do without, by the names that applications import.
DEPENDENCIES: Final = (
    "blinker",
    "sqlalchemy.orm",
    "tenacity",
    "transaction",
    "zope.sqlalchemy",
)

_PROGRAM: Final = """
import importlib, sys, time
start = time.perf_counter()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(time.perf_counter() - start)
"""

_MILLISECONDS: Final = 1000


@dataclass(frozen=True)
class ImportTimes:
    """Milliseconds for the library, and for its dependencies alone."""

    library: Summary
    dependencies: Summary
    ratio: Summary


def run(rounds: int) -> ImportTimes:
    """Import in new processes, in turns."""
    import_seconds(OURS)
    pairs = [(import_seconds(OURS), import_seconds(DEPENDENCIES)) for _ in range(rounds)]
    library = [ours * _MILLISECONDS for ours, _ in pairs]
    dependencies = [theirs * _MILLISECONDS for _, theirs in pairs]
    return ImportTimes(
        summarize(library), summarize(dependencies), summarize(ratios(library, dependencies))
    )


def import_seconds(modules: Sequence[str]) -> float:
    """Return how long a new process takes to import the modules."""
    command = [sys.executable, "-c", _PROGRAM, *modules]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)
