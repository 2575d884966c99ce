"""What is concluded from what the servers answer, without a server."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from onegov_orm import SessionManager, replicas
from onegov_orm._pool import Holders
from onegov_orm._search_path import SearchPathEvents
from onegov_orm.context import Current
from onegov_orm.errors import ConfigurationError, PoolExhausted
from onegov_orm.replicas import LogEnd, Replica, Replicas, Turn
from tests.models import Base

IDENTITY = ("7", "towns")


def engine_of(name: str) -> Any:
    """Return an engine that connects to nobody."""
    engine = create_engine(f"postgresql+psycopg2://ada:secret@{name}/towns")
    SearchPathEvents("extensions", Holders()).attach(engine)
    return engine


class Answers:
    """Stands in for the servers: tells what each of them answers."""

    def __init__(self) -> None:
        self.log_end: Any = ("0/9", "0/9", 0.6, None, *IDENTITY)
        self.replayed: dict[str, Any] = {}
        self.asked: list[str] = []

    def __call__(self, engine: Any, question: str, **parameters: Any) -> Any:
        self.asked.append(engine.url.host)
        answer = self.replayed.get(engine.url.host, (True, True, True, *IDENTITY))
        answer = self.log_end if engine.url.host == "primary" else answer
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What the servers answer."""
    answers = Answers()
    monkeypatch.setattr(replicas, "_answer", answers)
    return answers


@pytest.fixture
def replica() -> Replica:
    """A replica that was not checked yet."""
    return Replica(engine_of("one"))


@pytest.fixture
def launched() -> list[Callable[[], Any]]:
    """What was started in the background, and waits there."""
    return []


@pytest.fixture
def route(launched: list[Callable[[], Any]], monkeypatch: pytest.MonkeyPatch) -> Replicas:
    """Two replicas, whose connections are the names of their hosts."""
    route = Replicas(
        engine_of("primary"), [engine_of("one"), engine_of("two")], Current(), 10, launched.append
    )
    for engine in route.engines:
        monkeypatch.setattr(engine, "raw_connection", lambda name=engine.url.host: name)
    return route


def run(launched: list[Callable[[], Any]]) -> None:
    """Do what was started in the background, and what that starts."""
    while launched:
        launched.pop(0)()


# where to read


def test_what_was_not_checked_is_not_used(route: Replicas) -> None:
    assert route.connect("towns-bern") is None


def test_reads_go_from_one_to_the_next(route: Replicas, answers: Answers) -> None:
    route.check()
    assert {route.connect("a"), route.connect("a")} == {"one", "two"}
    assert route.connect("a") != route.connect("a")


def test_after_a_write_the_primary_is_read(route: Replicas, answers: Answers) -> None:
    route.check()
    route.wrote()
    assert route.connect("a") is None
    route.check()
    assert route.connect("a") is not None


def test_a_new_schema_is_read_from_the_primary(route: Replicas, answers: Answers) -> None:
    route.check()
    route.admit("a")
    assert route.connect("a") is None
    assert route.connect("b") is not None
    route.check()
    route.admit("a")
    assert route.connect("a") is not None


def test_old_data_are_not_read(route: Replicas, answers: Answers) -> None:
    answers.replayed["one"] = (True, False, False, *IDENTITY)
    assert [each.is_usable for each in route.check()] == [False, True]
    assert [route.connect("a") for _ in range(4)] == ["two"] * 4


def test_what_can_not_be_reached_is_left_out(
    route: Replicas, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Any:
        raise ConnectionRefusedError("refused")

    route.check()
    monkeypatch.setattr(route.engines[0], "raw_connection", fail)
    assert [route.connect("a") for _ in range(4)] == ["two"] * 4


def test_an_exhausted_pool_is_the_last_choice(
    route: Replicas, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Any:
        raise PoolExhausted("no room", [])

    route.check()
    monkeypatch.setattr(route.engines[0], "raw_connection", fail)
    monkeypatch.setattr(Replica, "has_room", lambda self: "two" in self.name)
    assert [route.connect("a") for _ in range(4)] == ["two"] * 4
    answers.replayed["two"] = OSError("gone")
    route.check()
    with pytest.raises(PoolExhausted):
        route.connect("a")


def test_a_check_without_an_answer_makes_it_the_last_choice(
    route: Replicas, answers: Answers
) -> None:
    route.check()
    one = route._replicas[0]
    one.check.take()
    assert one.is_fit(time.monotonic(), -math.inf)
    one.check.since -= 2
    assert not one.is_fit(time.monotonic(), -math.inf)


# what is known


def test_nobody_waits_for_a_check(
    route: Replicas, answers: Answers, launched: list[Callable[[], Any]]
) -> None:
    for _ in range(3):
        assert route.connect("a") is None
    assert len(launched) == 1
    assert not answers.asked
    run(launched)
    assert answers.asked == ["primary", "one", "two"]
    assert route.connect("a") is not None
    assert not launched


def test_what_can_not_be_started_is_logged(
    route: Replicas, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(work: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(route, "_launch", fail)
    assert route.connect("a") is None
    assert "can't be checked: can't start new thread" in caplog.text
    assert route._check.since is None


def test_an_error_in_a_check_is_logged(
    route: Replicas,
    answers: Answers,
    launched: list[Callable[[], Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers.replayed["one"] = (True,)
    route.connect("a")
    run(launched)
    assert "the check of the replicas failed" in caplog.text
    assert caplog.records[0].exc_info is not None
    assert route._replicas[1].reason is None


def test_a_primary_that_is_down_leaves_the_replicas(
    route: Replicas, answers: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    route.check()
    answers.log_end = OSError("gone")
    for _ in range(3):
        assert all(status.is_usable for status in route.check())
    assert caplog.text.count("the primary does not answer: gone") == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((True, True, True, "8", "towns"), "no copy"),
        ((True, True, True, "7", "villages"), "no copy"),
        ((False, True, True, *IDENTITY), "no standby"),
        (OSError("gone"), "gone"),
        (TimeoutError(), "TimeoutError"),
        (OperationalError("SELECT", {}, ValueError("no password\nhint")), "no password"),
    ],
)
def test_what_is_no_replica_is_said(
    route: Replicas,
    answers: Answers,
    caplog: pytest.LogCaptureFixture,
    answer: Any,
    reason: str,
) -> None:
    answers.replayed["one"] = answer
    for _ in range(3):
        assert not route.check()[0].is_usable
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert reason in record.message
    assert "secret" not in record.message


def test_what_is_down_is_left_alone_for_longer_and_longer(
    route: Replicas, answers: Answers, launched: list[Callable[[], Any]]
) -> None:
    answers.replayed["one"] = OSError("gone")
    route.check()
    answers.asked.clear()
    route._renew(0)
    run(launched)
    assert answers.asked == ["primary", "two"]
    pauses = []
    for _ in range(7):
        route.check()
        pauses.append(round(route._replicas[0].left_alone_until - time.monotonic()))
    assert pauses == sorted(pauses)
    assert max(pauses) <= 30


def test_what_came_back_is_used(
    route: Replicas, answers: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answers.replayed["one"] = OSError("gone")
    route.check()
    answers.replayed.clear()
    assert all(status.is_usable for status in route.check())
    assert "one/towns is used" in caplog.messages[-1]
    assert route._replicas[0].left_alone_until < time.monotonic()


def test_a_forked_child_knows_nothing(route: Replicas, answers: Answers) -> None:
    route.check()
    route.start_anew()
    assert not any(status.is_usable for status in (each.status(10) for each in route._replicas))


def test_late_answers_make_nothing_older(replica: Replica) -> None:
    replica.came_up(5)
    replica.came_up(4)
    replica.came_up(None)
    assert replica.fresh_as_of == 5


def test_lag_is_told(replica: Replica) -> None:
    replica.came_up(time.monotonic() - 20)
    status = replica.status(10)
    assert status.reason == "it lags more than 10 s"
    assert 20 <= status.lag_seconds < 60
    assert not status.is_usable
    assert replica.status(100).is_usable


def test_names_hide_the_password(replica: Replica) -> None:
    assert "secret" not in replica.name


@pytest.mark.parametrize(
    ("inserted", "flushed", "expected"),
    [(True, True, 100.0), (False, True, 99.4), (False, False, None)],
)
def test_how_fresh_depends_on_what_was_replayed(
    inserted: bool, flushed: bool, expected: float | None
) -> None:
    end = LogEnd(100.0, "0/9", "0/8", 0.6, IDENTITY)
    assert end.fresh_as_of(inserted, flushed) == expected


# turns


def test_one_at_a_time_has_the_turn() -> None:
    turn = Turn()
    assert turn.take()
    assert not turn.take()
    turn.give_back()
    assert turn.take()


def test_a_turn_that_was_lost_is_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = Turn()
    assert turn.take()
    times = itertools.count(time.monotonic() + 60)
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    assert turn.take()


# options


@pytest.mark.parametrize(
    "options",
    [
        {"replicas": "postgresql://one/towns"},
        {"replicas": ["postgresql+psycopg://one/towns"]},
        {"replicas": ["postgresql://one/towns"], "max_lag_seconds": 0},
        {"replicas": ["postgresql://one/towns"], "max_lag_seconds": -1},
        {"replicas": ["postgresql://one/towns"], "max_lag_seconds": math.nan},
        {"max_lag_seconds": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SessionManager("postgresql://primary/towns", Base, **options)


def test_nothing_is_connected_at_first() -> None:
    mgr = SessionManager(
        "postgresql://nowhere.invalid/towns", Base, replicas=["postgresql://nowhere.invalid/b"]
    )
    assert mgr.replicas is not None
    mgr.dispose()
