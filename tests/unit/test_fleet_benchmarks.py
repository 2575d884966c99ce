"""The benchmarks of fleets: what they write, how they run programs, what they report."""

from __future__ import annotations

import ast
import json
import os
import sys
from dataclasses import replace

import pytest

from benchmarks.fleet import PARTS, parse
from benchmarks.fleet_check import Result as CheckResult
from benchmarks.fleet_databases import batches, names
from benchmarks.fleet_migrations import LOOP, NEW, OURS, Result, Row, Standing
from benchmarks.fleet_models import (
    REVISIONS,
    alembic_revision,
    base_of,
    changes_of,
    django_migration,
    django_models,
)
from benchmarks.fleet_processes import memory_of, run_program
from benchmarks.fleet_report import FleetReport, grids
from benchmarks.fleet_serving import Result as ServingResult
from benchmarks.fleet_serving import Served
from benchmarks.fleet_spares import Result as SparesResult
from benchmarks.fleet_spares import Row as SparesRow
from benchmarks.measure import Summary
from benchmarks.report import markdown_of

ONE = Summary(1.5, 1, 2, 3)


def test_twenty_revisions_make_twenty_tables():
    assert len(base_of().metadata.tables) == REVISIONS


def test_the_new_revision_adds_a_column_and_an_index_to_two_tables():
    old, new = base_of().metadata.tables, base_of(REVISIONS + 1).metadata.tables
    changed = {name for name in old if len(new[name].columns) > len(old[name].columns)}
    assert changed == {name for name in old if len(new[name].indexes) > len(old[name].indexes)}
    assert len(changed) == 2
    assert len(changes_of(REVISIONS + 1)) == 2


@pytest.mark.parametrize("number", range(1, REVISIONS + 2))
@pytest.mark.parametrize("text_of", [alembic_revision, django_migration, django_models])
def test_what_is_written_is_python(text_of, number):
    ast.parse(text_of(number))


def test_revisions_lead_to_each_other():
    assert "down_revision = None" in alembic_revision(1)
    assert "revision = '0021'\ndown_revision = '0020'" in alembic_revision(21)
    assert "dependencies = [('records', '0020')]" in django_migration(21)


def test_a_program_tells_what_it_took(tmp_path):
    code = "import time; block = bytearray(60_000_000); time.sleep(0.6); print('done')"
    usage = run_program([sys.executable, "-c", code], tmp_path)
    assert usage.output == "done\n"
    assert usage.seconds >= 0.6
    assert 0 < usage.processor_seconds < 2
    assert 60 < usage.largest_mb < 90
    if memory_of(os.getpid()) is not None:
        assert 55 < usage.all_mb < 90


def test_a_program_is_not_charged_with_the_memory_of_who_starts_it(tmp_path):
    block = bytearray(150_000_000)
    usage = run_program([sys.executable, "-S", "-c", "print()"], tmp_path)
    assert usage.largest_mb < 50 < len(block)


def test_the_memory_of_all_processes_is_added_up(tmp_path):
    code = (
        "import subprocess, sys\n"
        "child = 'import time; block = bytearray(40_000_000); time.sleep(0.7)'\n"
        "family = [subprocess.Popen([sys.executable, '-c', child]) for _ in range(3)]\n"
        "for each in family: each.wait()"
    )
    usage = run_program([sys.executable, "-c", code], tmp_path)
    assert usage.largest_mb < 80
    assert usage.all_mb > 115


def test_a_program_that_fails_has_the_last_word(tmp_path):
    with pytest.raises(RuntimeError, match="on purpose"):
        run_program([sys.executable, "-c", "raise SystemExit('on purpose')"], tmp_path)


def test_batches_hold_all_values_once():
    everyone = names(0, 60)
    found = list(batches(everyone, 25))
    assert [len(batch) for batch in found] == [25, 25, 10]
    assert [name for batch in found for name in batch] == everyone


def test_sizes_are_those_of_a_full_run_unless_given():
    assert parse([]).sizes == [300, 1000]
    assert parse([]).only == PARTS
    assert parse(["--quick"]).sizes == [20]
    assert parse(["--quick", "--sizes", "5", "7"]).sizes == [5, 7]
    assert parse(["--rounds", "0"]).rounds == 0


def report() -> FleetReport:
    ours = Row(OURS, ONE, ONE, ONE, ONE, 50, 0, inside=ONE, inside_ratio=ONE)
    loop = replace(ours, contestant=LOOP, all_mb=60)
    sampled = replace(loop, contestant="processes", inside=None, sampled=15)
    served = [Served("a way", 9, ONE, ONE, 3.0, None, connection) for connection in (50, 1)]
    return FleetReport(
        {"Python": "3.11"},
        [Standing(300, ONE, 30)],
        [Result(NEW, 300, [ours, loop, sampled])],
        ServingResult(10_000, 5, 12, ONE, ONE, ONE, ONE, served),
        SparesResult(60, [SparesRow("onegov_orm with", ONE, ONE)]),
        CheckResult(500, 20, ONE, "fleet-00250", [], ONE, ONE, ONE),
    )


def test_each_row_has_as_many_cells_as_the_header():
    for grid in grids(report()):
        assert {len(row) for row in grid.rows} == {len(grid.header)}, grid.title


def test_report_says_what_is_extrapolated_and_what_is_unknown():
    [migrations] = [grid for grid in grids(report()) if NEW in grid.title]
    ours, inside, loop, _, sampled = migrations.rows
    assert ours[-1] == "?"
    assert inside[1] == "1.50 [1.00, 2.00]"
    assert loop[4] == ""
    assert sampled[0] == "processes (from 15)"


def test_report_does_not_hide_a_change_that_was_not_found():
    text = markdown_of(grids(report()), {"Python": "3.11"})
    assert "| the one that was altered | WAS NOT FOUND |" in text
    assert text.endswith("Measured with: Python 3.11.\n")


def test_report_is_written_as_json(tmp_path):
    report().write_json(tmp_path / "fleet.json")
    found = json.loads((tmp_path / "fleet.json").read_text())
    assert found["migrations"][0]["rows"][0]["ratio"]["median"] == 1.5
    assert found["serving"]["served"][0]["backend"] is None
