"""Hot standbys of a private server: they can lag behind, die, come back and take over."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import psycopg2

from onegov_orm.embedded import EmbeddedServer

if TYPE_CHECKING:
    from tests.conftest import Databases

WAIT_SECONDS = 20.0
POLL_SECONDS = 0.005

#: A standby does not start unless these are at least what they are on its primary.
_FOLLOWED = (
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
)
_SETTINGS = {
    # a kept server is durable by default, but these data are worth nothing
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "hot_standby": "on",
    "hot_standby_feedback": "on",
    # how soon it asks for more after its primary or itself was gone
    "wal_retrieve_retry_interval": "50ms",
    "wal_receiver_status_interval": "1s",
}
#: Transactions that are not written at once would reach the standbys only now and then.
PRIMARY_SETTINGS = {"wal_level": "replica", "max_wal_senders": "8", "synchronous_commit": "on"}

_numbers = itertools.count()


class Standby:
    """A streaming copy of a server, under the same account and with the same password.

    A replication slot keeps what it misses while it is down. Its data are in a directory below
    the primary's sockets, and so they go with the primary whatever happens.
    """

    def __init__(self, primary: EmbeddedServer) -> None:
        self.primary = primary
        self.name = f"standby_{next(_numbers)}"
        self.data_directory = primary.socket_directory / self.name
        self._server: EmbeddedServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def server(self) -> EmbeddedServer:
        """The standby as a server, for its log, its process and its programs."""
        assert self._server is not None, "the standby has not been started"
        return self._server

    @property
    def is_running(self) -> bool:
        return self._server is not None and self._server.is_running

    @property
    def is_standby(self) -> bool:
        """Whether it has not been promoted."""
        return self._ask("SELECT pg_is_in_recovery()") is True

    @property
    def replayed(self) -> int:
        """The position in the primary's log up to which changes can be seen here."""
        return int(self._ask("SELECT pg_last_wal_replay_lsn() - '0/0'"))

    def start(self) -> None:
        """Copy the primary the first time; later, come back with what was there and catch up."""
        if self._server is None:
            self._copy()
            self._server = EmbeddedServer(
                data_directory=self.data_directory,
                keep=True,
                tcp=True,
                binaries=self.primary.binaries,
                settings=_SETTINGS | self._followed_settings() | {"cluster_name": self.name},
            )
        self._server.start()

    def stop(self) -> None:
        """Stop in good order; clients are told and connections ended."""
        self.server.stop()

    def kill(self) -> None:
        """Kill the main process with SIGKILL; its children notice, and leave their clients."""
        pid = self.server.pid
        assert pid is not None, "the standby does not run"
        children = children_of(pid)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.is_running, f"{self.name} has survived")
        # One of them may still write to the files that the next server recovers.
        wait_until(lambda: not any(map(is_alive, children)), f"{self.name} has left children")

    def close(self) -> None:
        """Stop for good and remove everything, the primary's slot too."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        shutil.rmtree(self.data_directory, ignore_errors=True)
        if self.primary.is_running:
            wait_until(self._drop_slot, f"{self.name} still has its replication slot")

    def dsn(
        self, database: str = "postgres", *, driver: str | None = None, tcp: bool = False
    ) -> str:
        """Return the URL of a database on the standby, on its socket or over TCP."""
        return self.server.dsn(database, driver=driver, tcp=tcp)

    def wait_until_caught_up(self, timeout: float = WAIT_SECONDS) -> None:
        """Wait until all that is committed on the primary by now can be seen here."""
        # written at once, and everything before it too, which may still be in memory only
        written = "SELECT pg_logical_emit_message(true, 'tests', 'now') - '0/0'"
        target = int(ask(self.primary, f"SET synchronous_commit = local; {written}"))
        wait_until(
            lambda: self.replayed >= target, f"{self.name} has not caught up", timeout=timeout
        )

    def pause(self) -> None:
        """Let nothing new be seen until `resume`; what is committed meanwhile is received."""
        self._ask("SELECT pg_wal_replay_pause()")
        wait_until(
            lambda: self._ask("SELECT pg_get_wal_replay_pause_state()") == "paused",
            f"{self.name} does not pause",
        )

    def resume(self) -> None:
        """Replay again."""
        self._ask("SELECT pg_wal_replay_resume()")

    def promote(self) -> None:
        """Make a primary of it, for good; the old primary goes on, and knows nothing of it."""
        self.server.run("pg_ctl", "promote", "--pgdata", str(self.data_directory))

    def restore(self) -> None:
        """Let it run and replay, whatever a test has done to it short of promoting it."""
        self.start()
        self.resume()

    def _copy(self) -> None:
        self.primary.run(
            "pg_basebackup",
            f"--pgdata={self.data_directory}",
            "--write-recovery-conf",
            "--create-slot",
            f"--slot={self.name}",
            "--checkpoint=fast",
            "--no-sync",
        )

    def _followed_settings(self) -> dict[str, str]:
        return {
            name: str(ask(self.primary, f"SELECT current_setting('{name}')")) for name in _FOLLOWED
        }

    def _drop_slot(self) -> bool:
        """Drop the slot, which is in use until the primary has noticed the end of the standby."""
        slot = f"pg_replication_slots WHERE slot_name = '{self.name}'"
        ask(self.primary, f"SELECT pg_drop_replication_slot(slot_name) FROM {slot} AND NOT active")
        return not ask(self.primary, f"SELECT count(*) FROM {slot}")

    def _ask(self, statement: str) -> Any:
        return ask(self.server, statement)


@dataclass(frozen=True)
class Replicated:
    """A primary and its standbys."""

    primary: Databases
    standbys: tuple[Standby, ...]

    def wait_until_caught_up(self) -> None:
        """Wait until all standbys show what is committed on the primary by now."""
        for standby in self.standbys:
            standby.wait_until_caught_up()

    def restore(self) -> None:
        """Let all standbys run and replay."""
        for standby in self.standbys:
            standby.restore()


@contextmanager
def replicate(primary: Databases, number: int) -> Iterator[Replicated]:
    """Give a primary some standbys, for as long as the block lasts."""
    with ExitStack() as stack:
        standbys = (stack.enter_context(Standby(primary.server)) for _ in range(number))
        yield Replicated(primary, tuple(standbys))


def ask(server: EmbeddedServer, statement: str) -> Any:
    """Run a statement as the superuser and return the first value, if there is one."""
    with closing(psycopg2.connect(server.dsn(tcp=False))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def wait_until(
    condition: Callable[[], bool], complaint: str, *, timeout: float = WAIT_SECONDS
) -> None:
    """Wait until something holds; say what is wrong if it takes too long."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{complaint} within {timeout:g} seconds")
        time.sleep(POLL_SECONDS)


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = subprocess.run(
        ["ps", "-A", "-o", "ppid=,pid="], capture_output=True, text=True, check=True
    )
    pairs = [line.split() for line in found.stdout.splitlines()]
    return [int(child) for parent, child in pairs if int(parent) == pid]


def is_alive(pid: int) -> bool:
    """Tell whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
