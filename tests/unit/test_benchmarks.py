"""The statistics and the command line of the benchmarks."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest

from benchmarks.__main__ import FULL, QUICK, parser, scale_of
from benchmarks.asynchronous import InLoop
from benchmarks.concurrency import Crowd
from benchmarks.concurrency import Result as CrowdResult
from benchmarks.concurrency import Row as CrowdRow
from benchmarks.contestants import REQUESTS
from benchmarks.measure import (
    Summary,
    no_collection,
    percentile,
    ratios,
    summarize,
    take_turns,
)
from benchmarks.models import SIXTY, provisioned_base, script_of
from benchmarks.provisioning import Row
from benchmarks.report import Report, grids, markdown


def test_summary_is_median_and_quartiles():
    assert summarize([5, 1, 4, 2, 3]) == Summary(3, 2, 4, 5)


def test_summary_of_one_value_has_no_spread():
    assert summarize([2.5]) == Summary(2.5, 2.5, 2.5, 1)


def test_summary_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to summarize"):
        summarize([])


def test_summary_reads_as_median_with_spread():
    assert str(Summary(1.042, 1.01, 1.1, 9)) == "1.04 [1.01, 1.10]"


@pytest.mark.parametrize(("percent", "value"), [(50, 51), (95, 96), (99, 100)])
def test_percentile_is_what_that_share_does_not_exceed(percent, value):
    assert percentile(range(101, 0, -1), percent) == value


def test_percentile_of_one_value_is_that_value():
    assert percentile([2.5], 99) == 2.5


def test_ratios_are_taken_round_by_round():
    assert ratios([2, 9], [1, 3]) == [2, 3]


def test_ratios_of_unlike_rounds_are_refused():
    with pytest.raises(ValueError, match="zip"):
        ratios([1], [1, 2])


def test_each_contestant_has_one_turn_in_a_round():
    turns: list[str] = []
    contestants = {name: lambda name=name: lambda: turns.append(name) for name in "abc"}
    timings = take_turns(contestants, rounds=4)
    rounds = [turns[start : start + 3] for start in range(0, len(turns), 3)]
    assert len(rounds) == 5
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert {name: len(timing.elapsed) for name, timing in timings.items()} == dict.fromkeys(
        "abc", 4
    )


def test_rounds_differ_in_their_order():
    turns: list[str] = []
    contestants = {name: lambda name=name: lambda: turns.append(name) for name in "abcd"}
    take_turns(contestants, rounds=10, warm_up=0)
    assert len({tuple(turns[start : start + 4]) for start in range(0, len(turns), 4)}) > 3


def test_no_garbage_is_collected_while_time_is_taken():
    found = []
    take_turns({"a": lambda: lambda: found.append(gc.isenabled())}, rounds=1, warm_up=0)
    assert found == [False]
    assert gc.isenabled()


def test_garbage_is_collected_again_after_an_error():
    with pytest.raises(RuntimeError), no_collection():
        raise RuntimeError
    assert gc.isenabled()


class Recorder:
    """An asynchronous contestant that notes who is served, in which task, and how many at once."""

    name = baseline = "recorder"

    def __init__(self) -> None:
        self.served: list[tuple[str, int]] = []
        self.tasks: set[object] = set()
        self.most_at_once = self._at_once = 0
        self.is_closed = False

    async def serve(self, request: object, schema: str, key: int) -> None:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0)
        self._at_once -= 1
        self.served.append((schema, key))
        self.tasks.add(asyncio.current_task())

    async def close(self) -> None:
        self.is_closed = True


def test_each_asynchronous_request_has_a_task_of_its_own():
    recorder = Recorder()
    contestant = InLoop(recorder)
    contestant.serve_all(REQUESTS[0], [("a", 1), ("b", 2), ("a", 3)])
    contestant.close()
    assert recorder.served == [("a", 1), ("b", 2), ("a", 3)]
    assert (len(recorder.tasks), recorder.most_at_once) == (3, 1)
    assert recorder.is_closed


def test_a_crowd_is_served_at_once_and_each_request_is_timed():
    recorder = Recorder()
    crowd = Crowd(recorder, ["a", "b"])
    crowd.run(crowd.serve_crowd(REQUESTS[0], [[("a", 1), ("b", 1)], [("a", 2)], [("b", 3)]]))
    crowd.close()
    assert (len(recorder.served), recorder.most_at_once) == (4, 3)
    assert [len(batch) for batch in crowd.latencies] == [4]


def test_crowds_are_reported_with_their_tails():
    one = Summary(1.5, 1, 2, 3)
    rows = [CrowdRow(name, one, one, one, one, one, one) for name in ("bare", "onegov_orm")]
    report = Report(concurrency=[CrowdResult("a crowd", "asyncpg", "read", 20, 3, rows)])
    [grid] = grids(report)
    assert [len(row) for row in grid.rows] == [len(grid.header)] * 2
    assert grid.rows[0][-2:] == ["", ""]
    assert grid.rows[1][-1] == "1.50 [1.00, 2.00]"


def test_script_makes_sixty_tables_with_what_belongs_to_them():
    script = script_of(provisioned_base(SIXTY).metadata)
    assert script.count("CREATE TABLE") == SIXTY
    assert script.count("CREATE TYPE") == 10
    assert script.count("FOREIGN KEY") == 57
    assert script.count("CREATE INDEX") + script.count("CREATE UNIQUE INDEX") == 187


def test_quick_is_less_than_full():
    assert scale_of(parser().parse_args(["--quick"])) == QUICK
    assert scale_of(parser().parse_args([])) == FULL


def test_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["--only", "nonsense"])
    assert "invalid choice: 'nonsense'" in capsys.readouterr().err


def test_report_reads_the_same_in_every_form(tmp_path):
    one = Summary(1, 1, 1, 3)
    report = Report({"Python": "3.11"}, provisioning=[Row("onegov_orm", one, one)])
    report.write_json(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["provisioning"][0]["contestant"] == "onegov_orm"
    assert [grid.title for grid in grids(report)] == ["A schema of sixty tables"]
    assert "| **onegov_orm** | **1.0 [1.0, 1.0]** | **1.00 [1.00, 1.00]** |" in markdown(report)
    assert markdown(report).endswith("Measured with: Python 3.11.\n")
