"""Several processes and one Redis, which may be away."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onegov_orm.cache import _generations, redis_region
from tests.conftest import skip_or_fail
from tests.redis_server import RedisServer, find_redis
from tests.toolbox.caching import App, Base, add, names
from tests.toolbox.conftest import NewTowns

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    if find_redis() is None:
        skip_or_fail("no Redis on this machine: apt-get install redis-server")
    with RedisServer() as found:
        yield found


@pytest.fixture
def app(new_town: NewTowns, server: RedisServer) -> App:
    found = App(new_town(Base), redis_region(server.url))
    add(found, "Ada")
    assert names(found) == names(found) == ["Ada"]
    return found


class Process:
    """The same application in another process, which does as it is told."""

    def __init__(self, app: App, server: RedisServer) -> None:
        arguments = [app.mgr.dsn, server.url, str(app.mgr.current_schema)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.toolbox.caching_process", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def tell(self, line: str) -> str:
        """Have a line executed and return what it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        """End the process without a chance to do anything."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def processes(app: App, server: RedisServer) -> Iterator[list[Process]]:
    found = [Process(app, server) for _ in range(2)]
    yield found
    for process in found:
        process.kill()


def test_a_commit_in_one_process_outdates_values_in_all(
    app: App, processes: list[Process]
) -> None:
    first, second = processes
    assert first.tell("role admin") == second.tell("role guest") == "ok"
    for process in processes:
        process.tell("read")
        assert process.tell("read").startswith("['Ada', ")
    assert second.tell("add Alan") == "ok"
    assert names(app) == ["Ada", "Alan"]
    assert first.tell("read") == "['Ada', 'Alan', 'admin']"
    assert second.tell("read") == "['Ada', 'Alan', 'guest']"
    # A role that only the other process ever asked for.
    first.tell("role guest")
    add(app, "Eve")
    assert first.tell("read") == "['Ada', 'Alan', 'Eve', 'guest']"


def test_processes_wait_for_the_one_that_makes_a_value(app: App, processes: list[Process]) -> None:
    for process in processes:
        process.tell("read")
        process.tell("read")
    add(app, "Alan")
    made = [int(process.tell("made")) for process in processes]
    for process in processes:
        process.tell("start")
    for process in processes:
        assert process.tell("join") == "['Ada', 'Alan', 'None']"
    assert sum(int(process.tell("made")) for process in processes) == sum(made) + 1


def test_a_process_that_dies_after_its_commit_leaves_nothing_outdated(
    app: App, processes: list[Process], monkeypatch: Any
) -> None:
    assert processes[0].tell("die Alan") == "committed"
    processes[0].kill()
    assert names(app) == ["Ada", "Alan"]
    # Its mark is believed for an hour, and means that nothing is kept.
    app.made = 0
    assert names(app) == names(app) == ["Ada", "Alan"]
    assert app.made == 2
    monkeypatch.setattr(_generations.time, "time", lambda: 10.0**10)
    assert [names(app) for _ in range(3)] == [["Ada", "Alan"]] * 3
    assert app.made == 3


def test_without_redis_values_are_made_each_time(
    app: App, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop()
    app.made = 0
    assert names(app) == names(app) == ["Ada"]
    assert app.made == 2
    assert "left out" in caplog.text


def test_a_change_without_redis_outdates_values_when_it_is_back(
    app: App, server: RedisServer
) -> None:
    server.stop()
    add(app, "Alan")
    server.start()
    assert names(app) == names(app) == ["Ada", "Alan"]


def test_nothing_in_redis_is_a_pickle(app: App, server: RedisServer) -> None:
    client = server.client()
    kept = [client.get(key) for key in client.scan_iter()]
    assert len(kept) > 3
    for value in kept:
        metadata, _, payload = value.partition(b"|")
        assert metadata.startswith(b"{")
        assert payload.decode().isprintable()
    client.close()


def test_what_somebody_else_wrote_there_is_never_run(app: App, server: RedisServer) -> None:
    client = server.client()
    for key in client.scan_iter():
        client.set(key, b'{"ct": 1, "v": 2}|\x80\x04cos\nsystem\n.')
    client.close()
    assert names(app) == names(app) == ["Ada"]
