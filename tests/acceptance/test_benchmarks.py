"""The benchmarks as a process: every part runs, and says what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_help_tells_what_is_measured():
    output = run("--help").stdout
    assert "--quick" in output
    assert "SUPPRESS" not in output


@pytest.mark.slow
def test_every_part_is_measured(tcp_dsn, tmp_path):
    arguments = ["--quick", "--batches", 2, "--long", "--long-schemas", 2, "--markdown"]
    done = run("--dsn", tcp_dsn, "--output", tmp_path, *arguments)
    found = json.loads((tmp_path / "latest.json").read_text())
    trips = {
        (result["driver"], result["request"], row["contestant"]): row["round_trips"]
        for result in found["requests"]
        for row in result["rows"]
    }
    assert trips["psycopg2", "write", "onegov_orm"] == 4
    assert trips["psycopg2", "read", "onegov_orm"] == 2
    assert trips["psycopg2", "write", "bare SQLAlchemy"] == 5
    for driver in ("asyncpg", "psycopg-async"):
        block = "onegov_orm with mgr.schema()"
        assert [trips[driver, "write", name] for name in ("bare SQLAlchemy", block)] == [5, 5]
        assert [trips[driver, "read", name] for name in ("bare SQLAlchemy", block)] == [3, 3]
    assert trips["psycopg-async", "read", "onegov_orm with a pipeline"] == 2
    crowds = {(each["driver"], each["request"]): each["rows"] for each in found["concurrency"]}
    assert len(crowds) == 4
    assert all(row["p50"]["median"] <= row["p99"]["median"] for row in crowds["asyncpg", "read"])
    assert {row["contestant"] for row in found["provisioning"]} >= {"onegov_orm"}
    assert found["long"]["schemas"] == 2
    assert found["memory"]["schemas"] == 20
    assert found["imports"]["ratio"]["median"] > 0
    assert "| **onegov_orm** | **4** |" in done.stdout
    assert "━" not in done.stdout


@pytest.mark.slow
def test_imports_alone_take_no_other_part(tcp_dsn, tmp_path):
    run("--dsn", tcp_dsn, "--output", tmp_path, "--batches", 1, "--only", "imports")
    found = json.loads((tmp_path / "latest.json").read_text())
    assert found["requests"] == found["concurrency"] == []
    assert found["imports"]["library"]["count"] == 1
    assert os.listdir(tmp_path) == ["latest.json"]
