"""Run a program, and tell how long it took and how much memory it and its children took.

A small process of its own starts the program and waits for it: Linux counts the memory of the
process that starts another one as the latter's, up to the moment that it becomes itself.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

_MEGABYTE: Final = 1024 * 1024
_KILOBYTE: Final = 1024
#: How often the memory of a process and its children is added up.
_INTERVAL_SECONDS: Final = 0.25
#: How much of what a failed program said is shown.
_LAST_WORDS: Final = 3000


@dataclass(frozen=True)
class Memory:
    """The memory of a process in MB: its share of everything, and what is its alone."""

    total: float
    own: float


@dataclass(frozen=True)
class Usage:
    """What running a program took, by the clock and of the processors.

    ``largest_mb`` is the peak of the largest process, ``all_mb`` that of all together, where
    the system tells it.
    """

    seconds: float
    processor_seconds: float
    largest_mb: float
    all_mb: float
    output: str


def run_program(
    command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
) -> Usage:
    """Run a program to its end; raises ``RuntimeError`` with its last words if it fails."""
    variables = {**os.environ, "PYTHONPATH": _python_path(), **(environment or {})}
    with tempfile.TemporaryDirectory() as scratch:
        said = Path(scratch) / "output"
        # Isolated: the directory of this file holds modules that must not shadow the library's.
        launcher = [sys.executable, "-I", "-S", __file__, str(said), *command]
        done = subprocess.run(
            launcher, check=True, cwd=directory, env=variables, stdout=subprocess.PIPE
        )
        output = said.read_text(errors="replace")
    found = json.loads(done.stdout)
    if found.pop("status"):
        raise RuntimeError(f"{' '.join(command)} failed:\n{output[-_LAST_WORDS:]}")
    return Usage(**found, output=output)


def memory_of(pid: int) -> Memory | None:
    """Return the memory of a process; None where the system does not tell, or not us."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    values = {
        parts[0]: int(parts[1]) * _KILOBYTE / _MEGABYTE
        for line in lines
        if len(parts := line.split()) > 1 and parts[0].endswith(":") and parts[1].isdigit()
    }
    return Memory(values.get("Pss:", 0), values.get("Anonymous:", 0))


def _python_path() -> str:
    """Return where the programs find this package, from whatever directory they run in."""
    here = str(Path(__file__).parent.parent)
    given = os.environ.get("PYTHONPATH")
    return os.pathsep.join([here, given] if given else [here])


def _launch(output: str, command: Sequence[str]) -> dict[str, float]:
    """Run a program, and return what it took."""
    with open(output, "wb") as said:
        started = perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        with _Sampler(process.pid) as sampler:
            status = process.wait()
        seconds = perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else _KILOBYTE
    return {
        "status": status,
        "seconds": seconds,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "largest_mb": used.ru_maxrss * unit / _MEGABYTE,
        "all_mb": sampler.peak_mb,
    }


class _Sampler:
    """Looks at a process and its children again and again, in a thread."""

    def __init__(self, pid: int) -> None:
        self.peak_mb = 0.0
        self._pid = pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(_INTERVAL_SECONDS):
            found = [memory_of(pid) for pid in _family(self._pid)]
            self.peak_mb = max(self.peak_mb, sum(each.total for each in found if each))


def _family(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:
            continue
        for child in found:
            yield from _family(int(child))


if __name__ == "__main__":
    print(json.dumps(_launch(sys.argv[1], sys.argv[2:])))
