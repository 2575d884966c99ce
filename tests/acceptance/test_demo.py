"""``make demo`` as a process: what it prints, and how it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 120

pytestmark = pytest.mark.slow


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.towns", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


@pytest.fixture(params=[["--seed", "0"], ["--seed", "1"]], ids=" ".join, scope="module")
def demo(request: pytest.FixtureRequest, newest: Any) -> subprocess.CompletedProcess[str]:
    """The demo on the embedded server, twice."""
    return run(*request.param)


def test_it_ends_well_and_quietly(demo: subprocess.CompletedProcess[str]) -> None:
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stderr == ""
    assert "All checks hold" in demo.stdout


def test_it_is_readable_without_a_terminal(demo: subprocess.CompletedProcess[str]) -> None:
    assert "\x1b" not in demo.stdout
    assert max(map(len, demo.stdout.splitlines())) <= 100


def test_every_check_holds(demo: subprocess.CompletedProcess[str]) -> None:
    assert "FAILED" not in demo.stdout
    assert len(re.findall(r"^ok ", demo.stdout, re.MULTILINE)) == 7
    assert re.search(r"shown a row of another town +0 foreign rows among \d{4}", demo.stdout)


@pytest.mark.parametrize(("town", "entries"), [("bern", 420), ("zurich", 460), ("govikon", 310)])
def test_towns_are_imported(
    demo: subprocess.CompletedProcess[str], town: str, entries: int
) -> None:
    assert re.search(rf"^towns-{town} +{entries} +\d+ ms +\d+ ms", demo.stdout, re.MULTILINE)


def test_a_read_takes_two_round_trips(demo: subprocess.CompletedProcess[str]) -> None:
    assert re.search(r"^search +\d+ +1\.00 +2\.00 ", demo.stdout, re.MULTILINE)


def test_a_write_takes_one_more_than_its_statements(
    demo: subprocess.CompletedProcess[str],
) -> None:
    assert re.search(r"^register +\d+ +3\.00 +4\.00 ", demo.stdout, re.MULTILINE)


def test_a_failed_request_leaves_nothing(demo: subprocess.CompletedProcess[str]) -> None:
    [before] = re.findall(r"^before +(\d+ +\d+)$", demo.stdout, re.MULTILINE)
    assert re.search(rf"^after +{before}$", demo.stdout, re.MULTILINE)
    assert re.search(r"^written, then rolled back +2 +0$", demo.stdout, re.MULTILINE)


def test_a_fourth_town_appears(demo: subprocess.CompletedProcess[str]) -> None:
    assert "appears on first use: towns-aarwil" in demo.stdout
    assert "schema, tables and pg_trgm included" in demo.stdout


def test_files_to_read_next_exist(demo: subprocess.CompletedProcess[str]) -> None:
    files = re.findall(r"^(examples/\S+|migrations/)", demo.stdout, re.MULTILINE)
    assert len(files) == 6
    assert all((ROOT / file).exists() for file in files)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_it_runs_on_a_given_server_and_leaves_nothing(
    newest: Any, driver: str, outside: Callable[[str], Callable[[str], list[Any]]]
) -> None:
    dsn = newest.server.dsn(driver=driver, tcp=False)
    look = outside(dsn)
    databases = look("SELECT datname FROM pg_database ORDER BY 1")
    result = run("--dsn", dsn, "--requests", "60")
    assert result.returncode == 0, result.stdout + result.stderr
    assert look("SELECT datname FROM pg_database ORDER BY 1") == databases


def test_it_keeps_the_database_if_told_so(newest: Any) -> None:
    result = run("--dsn", newest.server.dsn(tcp=False), "--keep", "--requests", "60")
    assert result.returncode == 0, result.stdout + result.stderr
    [name] = re.findall(r'database "(towns_\w+)"', result.stdout)
    newest.run(f"DROP DATABASE {name}")


def test_it_manages_without_umlauts(newest: Any) -> None:
    dsn = newest.server.dsn(tcp=False)
    result = run("--dsn", dsn, "--requests", "60", PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_server_is_an_answer_not_a_traceback() -> None:
    result = run("--dsn", "postgresql://nobody@127.0.0.1:1/nothing")
    assert result.returncode == 2
    assert "There is no server to run on" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [["--keep"], ["--requests", "3"], ["--requests", "many"]])
def test_wrong_options(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "error: " in result.stderr
