"""A step in many schemas: order, failures, retries, stops, and what is told of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from sqlalchemy import text

from onegov_orm import ConfigurationError
from onegov_orm._marking import read_mark, write_mark
from onegov_orm.fleet import lifecycle
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.runner import (
    Outcome,
    RunOptions,
    Skipped,
    Stopper,
    run,
    run_named_step,
    run_step,
)
from tests.provisioning import base_of, relations

NAMES = [f"towns-{letter}" for letter in "abcdefgh"]


class FakeWorker:
    """Does what it is told, and notes it."""

    def __init__(self, function):
        self.function = function
        self.is_closed = False
        self.interruptions = 0

    def work(self, schema):
        return self.function(schema)

    def interrupt(self):
        self.interruptions += 1

    def close(self):
        self.is_closed = True


def run_fake(function, schemas=NAMES, on_result=None, stop=None, **options):
    """Run without a database; returns the report and the workers."""
    workers = []

    def make():
        workers.append(FakeWorker(function))
        return workers[-1]

    report = run("step", schemas, make, RunOptions(**options), on_result, stop)
    assert all(worker.is_closed for worker in workers)
    return report


def outcomes(report):
    return {result.schema: result.outcome for result in report.results}


def failing(*names):
    def work(schema):
        if schema in names:
            raise ValueError(f"first line of {schema}\nsecond line")

    return work


# -- without a database


def test_each_schema_has_a_result():
    report = run_fake(lambda schema: f"did {schema}", reversed(NAMES), workers=3)
    assert [result.schema for result in report.results] == NAMES
    assert {result.outcome for result in report.results} == {Outcome.DONE}
    assert [result.detail for result in report.results] == [f"did {name}" for name in NAMES]
    assert report.is_ok
    assert not report.was_stopped


def test_nothing_to_do():
    report = run_fake(failing(), [])
    assert report.results == ()
    assert report.is_ok


def test_a_schema_that_is_named_twice_runs_once():
    ran = Counter()
    report = run_fake(lambda schema: ran.update([schema]), NAMES * 2)
    assert set(ran.values()) == {1}
    assert len(report.results) == len(NAMES)


def test_a_failure_is_told_on_one_line_and_the_others_go_on():
    report = run_fake(failing(NAMES[2]))
    [failed] = report.of(Outcome.FAILED)
    assert (failed.schema, failed.tries) == (NAMES[2], 1)
    assert failed.error == f"ValueError: first line of {NAMES[2]}"
    assert len(report.of(Outcome.DONE)) == len(NAMES) - 1
    assert not report.is_ok


def test_what_is_skipped_is_no_failure():
    def work(schema):
        raise Skipped("nothing to do")

    report = run_fake(work)
    assert {result.detail for result in report.of(Outcome.SKIPPED)} == {"nothing to do"}
    assert report.is_ok


def test_after_the_first_failure_nothing_is_begun():
    report = run_fake(failing(NAMES[2]), workers=1, fail_fast=True)
    assert [result.outcome for result in report.results] == (
        [Outcome.DONE] * 2 + [Outcome.FAILED] + [Outcome.PENDING] * 5
    )
    assert not report.was_stopped


def test_a_canary_that_fails_saves_the_others():
    report = run_fake(failing(NAMES[0]), canary=2)
    assert list(outcomes(report).values()) == (
        [Outcome.FAILED, Outcome.DONE] + [Outcome.PENDING] * 6
    )
    report = run_fake(failing(NAMES[5]), canary=2)
    assert len(report.of(Outcome.DONE)) == len(NAMES) - 1


def test_canaries_are_over_before_the_others_begin():
    running, order = set(), []

    def work(schema):
        running.add(schema)
        order.append(schema)
        time.sleep(0.02)
        assert schema not in NAMES[:2] or running <= set(NAMES[:2])
        running.discard(schema)

    assert run_fake(work, canary=2, workers=4).is_ok
    assert set(order[:2]) == set(NAMES[:2])


def test_after_a_wave_with_a_failure_no_other_begins():
    report = run_fake(failing(NAMES[3]), wave_size=3)
    found = list(outcomes(report).values())
    assert found == [
        *[Outcome.DONE] * 3,
        Outcome.FAILED,
        *[Outcome.DONE] * 2,
        *[Outcome.PENDING] * 2,
    ]


def test_workers_are_bounded():
    running, most, lock = [0], [0], threading.Lock()

    def work(schema):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1

    run_fake(work, workers=3)
    assert most == [3]


def test_results_are_told_one_after_the_other():
    heard, is_busy = [], threading.Lock()

    def hear(result, number, total):
        assert is_busy.acquire(blocking=False)
        heard.append((number, total))
        time.sleep(0.002)
        is_busy.release()

    run_fake(lambda schema: None, on_result=hear, workers=8)
    assert heard == [(number, len(NAMES)) for number in range(1, len(NAMES) + 1)]


def test_who_hears_and_fails_ends_the_run():
    def hear(result, number, total):
        raise BrokenPipeError("nobody reads")

    stop = threading.Event()
    with pytest.raises(BrokenPipeError):
        run_fake(lambda schema: time.sleep(0.01), on_result=hear, stop=stop, workers=2)
    assert stop.is_set()


def test_a_stop_leaves_the_rest_pending():
    stop = threading.Event()

    def work(schema):
        if schema == NAMES[2]:
            stop.set()

    report = run_fake(work, stop=stop, workers=1)
    assert len(report.of(Outcome.DONE)) == 3
    assert len(report.of(Outcome.PENDING)) == 5
    assert report.was_stopped
    assert not report.is_ok


def test_a_keyboard_interrupt_waits_for_what_is_in_flight():
    ended = []

    def work(schema):
        time.sleep(0.05)
        ended.append(schema)
        if schema == NAMES[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_fake(work, workers=2)
    assert 2 <= len(ended) <= 4


def test_a_stopper_interrupts_the_second_time_until_nobody_works():
    stopper, workers = Stopper(), []

    class Stubborn(FakeWorker):
        """Hears nothing before the third time, as between two statements."""

        def work(self, schema):
            while self.interruptions < 3:
                time.sleep(0.01)
            raise RuntimeError("interrupted")

    def make():
        workers.append(Stubborn(None))
        return workers[-1]

    def stop_twice():
        stopper.stop()
        assert stopper.is_set()
        time.sleep(0.1)
        assert not any(worker.interruptions for worker in workers)
        stopper.stop()

    threading.Timer(0.05, stop_twice).start()
    report = run("step", NAMES, make, RunOptions(workers=2), None, stopper)
    assert len(report.of(Outcome.FAILED)) == 2
    assert len(report.of(Outcome.PENDING)) == 6


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
        {"canary": -1},
        {"wave_size": 0},
        {"tries": 0},
        {"lock_timeout_seconds": 0},
        {"lock_timeout_seconds": float("nan")},
    ],
)
def test_options_have_to_make_sense(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        RunOptions(**options)


def test_a_report_as_json():
    report = run_fake(failing(NAMES[1]), NAMES[:2], workers=1)
    found = report.as_dict()
    assert (found["step"], found["was_stopped"]) == ("step", False)
    assert found["counts"] == {"done": 1, "skipped": 0, "failed": 1, "pending": 0}
    assert [each["outcome"] for each in found["results"]] == ["done", "failed"]


# -- on a database


@pytest.fixture
def context(common_dsn, new_manager):
    manager = new_manager(common_dsn, base_of(("t",)), transaction_manager=None)
    context = FleetContext(manager)
    for name in NAMES[:4]:
        lifecycle.create(context, name)
    return context


@pytest.fixture
def execute(common_dsn, outside):
    return outside(common_dsn)


def schemas_of(context):
    return [customer.schema for customer in context.customers()]


def add_column(connection, schema):
    connection.execute(text("ALTER TABLE t ADD COLUMN a text"))
    connection.execute(text("INSERT INTO t (id, a) VALUES (1, :schema)"), {"schema": schema})


def test_a_step_runs_in_each_schema(context, execute):
    assert run_step(context, "step", add_column, schemas_of(context)).is_ok
    for name in NAMES[:4]:
        assert execute(f'SELECT a FROM "{name}".t') == [(name,)]


def test_a_step_that_fails_leaves_its_schema_as_it_was(context, execute):
    def step(connection, schema):
        add_column(connection, schema)
        if schema == NAMES[1]:
            connection.execute(text("SELECT 1 / 0"))

    report = run_step(context, "step", step, schemas_of(context))
    [failed] = report.of(Outcome.FAILED)
    assert failed.error == "DivisionByZero: division by zero"
    columns = "SELECT table_schema FROM information_schema.columns WHERE column_name = 'a'"
    assert {name for (name,) in execute(columns)} == {NAMES[0], NAMES[2], NAMES[3]}


def test_a_schema_that_went_in_the_meantime_is_skipped(context, execute):
    schemas = schemas_of(context)
    lifecycle.drop(context, NAMES[0])
    lifecycle.rename(context, NAMES[1], "towns-z")

    def step(connection, schema):
        connection.execute(text("CREATE TABLE u ()"))

    report = run_step(context, "step", step, schemas)
    assert [each.schema for each in report.of(Outcome.SKIPPED)] == NAMES[:2]
    assert "u" not in relations(execute, "extensions")


def test_a_lock_of_others_is_waited_for_again(context, execute):
    execute(f'BEGIN; LOCK "{NAMES[0]}".t')
    timer = threading.Timer(0.5, execute, ["COMMIT"])
    timer.start()
    options = RunOptions(lock_timeout_seconds=0.2, tries=20)
    report = run_step(context, "step", add_column, schemas_of(context), options)
    timer.join()
    assert report.is_ok
    tries = {result.schema: result.tries for result in report.results}
    assert tries.pop(NAMES[0]) > 1
    assert set(tries.values()) == {1}


def test_a_lock_of_others_is_not_waited_for_for_ever(context, execute):
    execute(f'BEGIN; LOCK "{NAMES[0]}".t')
    options = RunOptions(lock_timeout_seconds=0.05, tries=2)
    report = run_step(context, "step", add_column, schemas_of(context), options)
    execute("ROLLBACK")
    [failed] = report.of(Outcome.FAILED)
    assert (failed.schema, failed.tries) == (NAMES[0], 2)
    assert "lock timeout" in failed.error


def test_deadlocks_are_tried_again(context, execute):
    execute("CREATE TABLE public.x (); CREATE TABLE public.y ()")
    barrier = threading.Barrier(2)
    first = Counter()

    def step(connection, schema):
        tables = ["x", "y"] if schema == NAMES[0] else ["y", "x"]
        connection.exec_driver_sql(f"LOCK public.{tables[0]}")
        first[schema] += 1
        if first[schema] == 1:
            barrier.wait(10)
        connection.exec_driver_sql(f"LOCK public.{tables[1]}")

    report = run_step(context, "step", step, schemas_of(context)[:2], RunOptions(workers=2))
    assert report.is_ok
    assert sorted(result.tries for result in report.results) == [1, 2]


def test_two_runs_of_a_step_do_not_meet_in_a_schema(context, execute):
    inside = Counter()

    def step(connection, schema):
        inside[schema] += 1
        assert inside[schema] == 1
        time.sleep(0.01)
        inside[schema] -= 1

    reports = []
    threads = [
        threading.Thread(
            target=lambda: reports.append(run_step(context, "step", step, schemas_of(context)))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.is_ok for report in reports] == [True, True]


def test_what_runs_on_the_server_is_ended(context, execute):
    stopper = Stopper()

    def step(connection, schema):
        connection.execute(text("CREATE TABLE half ()"))
        connection.execute(text("SELECT pg_sleep(30)"))

    def stop():
        stopper.stop()
        stopper.stop()

    threading.Timer(0.3, stop).start()
    started = time.monotonic()
    schemas = schemas_of(context)
    report = run_step(context, "step", step, schemas, RunOptions(workers=2), None, stopper)
    assert time.monotonic() - started < 5
    assert [len(report.of(each)) for each in (Outcome.FAILED, Outcome.PENDING)] == [2, 2]
    assert "cancel" in report.of(Outcome.FAILED)[0].error
    for name in NAMES[:4]:
        assert "half" not in relations(execute, f'"{name}"')
    assert execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_a_named_step_runs_once(context, execute):
    schemas, ran = schemas_of(context), Counter()

    def step(connection, schema):
        if schema == NAMES[1] and not ran[schema]:
            ran[schema] += 1
            raise RuntimeError("not this time")
        ran[schema] += 1
        add_column(connection, schema)

    report = run_named_step(context, "add a", step, schemas)
    assert [each.schema for each in report.of(Outcome.FAILED)] == [NAMES[1]]
    assert context.customer(NAMES[0]).mark.steps == ("add a",)
    assert context.customer(NAMES[1]).mark.steps == ()
    report = run_named_step(context, "add a", step, schemas)
    assert [each.schema for each in report.of(Outcome.DONE)] == [NAMES[1]]
    assert {each.detail for each in report.of(Outcome.SKIPPED)} == {"it ran before"}
    assert ran == {name: 2 if name == NAMES[1] else 1 for name in NAMES[:4]}


def test_a_named_step_keeps_what_it_wrote_into_the_mark(context):
    def step(connection, schema):
        mark = read_mark(connection, schema)
        write_mark(connection, schema, replace(mark, note="by the step"))

    run_named_step(context, "note", step, schemas_of(context)[:1])
    mark = context.customer(NAMES[0]).mark
    assert (mark.note, mark.steps) == ("by the step", ("note",))


def test_a_named_step_that_had_nothing_to_do_is_not_noted(context):
    def step(connection, schema):
        raise Skipped("later")

    run_named_step(context, "later", step, schemas_of(context)[:1])
    assert context.customer(NAMES[0]).mark.steps == ()


def test_a_step_without_a_name_runs_each_time(context):
    ran = Counter()

    def step(connection, schema):
        ran.update([schema])

    for _ in range(2):
        run_named_step(context, "step", step, schemas_of(context), is_recorded=False)
    assert set(ran.values()) == {2}
