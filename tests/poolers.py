"""PgBouncer as Debian ships it, in front of a private server."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import closing
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import psycopg2
from psycopg2.extras import RealDictCursor

from onegov_orm._embedded_account import program_environment, server_account
from onegov_orm.embedded import EmbeddedServer
from tests.replication import wait_until

PoolMode = Literal["transaction", "session"]

LOOPBACK = "127.0.0.1"
USER = "postgres"
START_SECONDS = 10.0
STOP_SECONDS = 3.0
ATTEMPTS = 5

#: The shell becomes the program; its child ends the program when our end of the pipe is closed,
#: which the system does if we are killed.
_GUARDED = 'exec 3<&0; { read -r gone <&3; kill "$$"; } & exec "$0" "$@" </dev/null 3<&-'

_PORT_IS_TAKEN = "Address already in use"
#: Who may come in on which way is the same as with the server itself.
_ACCESS = f"local all all trust\nhost all all {LOOPBACK}/32 scram-sha-256\n"

_numbers = itertools.count()


class PoolerError(Exception):
    """PgBouncer did not start."""


def find_pgbouncer() -> str | None:
    """Return the path of the program; the PATH of a plain user lacks Debian's place for it."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
    return shutil.which("pgbouncer", path=path)


class PgBouncer:
    """A pooler with its own default settings, apart from those that are given.

    It does not run as root, but as the account of the server. Its files are in a directory
    below the server's sockets, and so they go with the server whatever happens.
    """

    def __init__(
        self,
        server: EmbeddedServer,
        *,
        pool_mode: PoolMode = "transaction",
        default_pool_size: int = 2,
        max_client_conn: int = 500,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.server = server
        self.port = 0
        self.socket_directory = server.socket_directory / f"p{next(_numbers)}"
        self._account = server_account(server.data_directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = {
            "pool_mode": pool_mode,
            "default_pool_size": str(default_pool_size),
            "max_client_conn": str(max_client_conn),
            # all clients may come at the same moment
            "listen_backlog": str(max_client_conn),
            **(settings or {}),
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self.is_running else None

    @property
    def log(self) -> str:
        """What PgBouncer has written since its last start."""
        path = self.socket_directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start, and wait until clients are accepted; after a stop, with the same addresses."""
        if self.is_running:
            return
        self.stop()
        port, log = self.port, ""
        for _ in range(ATTEMPTS):
            self._launch(port or free_port())
            if self._becomes_ready():
                return
            log = self.log
            self.stop()
            self.port = port
            # somebody else was faster, or has not gone yet
            if _PORT_IS_TAKEN not in log:
                break
        raise PoolerError(f"PgBouncer did not start:\n{log}")

    def stop(self) -> None:
        """Stop, whoever is connected; a pooler that does not listen is killed."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            _wait_for_end(process)
        shutil.rmtree(self.socket_directory, ignore_errors=True)

    def dsn(
        self, database: str = "postgres", *, driver: str | None = None, tcp: bool = False
    ) -> str:
        """Return the URL of a database behind the pooler, on its socket or over TCP."""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        name = quote(database, safe="")
        if not tcp:
            directory = quote(str(self.socket_directory))
            return f"{scheme}://{USER}@/{name}?host={directory}&port={self.port}"
        password = quote(self.server.password or "", safe="")
        return f"{scheme}://{USER}:{password}@{LOOPBACK}:{self.port}/{name}"

    def show(self, what: str) -> list[dict[str, Any]]:
        """Return what the admin console shows, such as SERVERS, CLIENTS, POOLS or CONFIG."""
        return self.run(f"SHOW {what}")

    def run(self, command: str) -> list[dict[str, Any]]:
        """Run a command of the admin console, such as RECONNECT or PAUSE."""
        with closing(psycopg2.connect(self.dsn("pgbouncer"))) as connection:
            connection.autocommit = True
            with connection.cursor(cursor_factory=RealDictCursor) as cursor:
                cursor.execute(command)
                return [dict(row) for row in cursor] if cursor.description else []

    def server_pids(self, database: str) -> list[int]:
        """Return the process ids of the server connections to a database."""
        return [row["remote_pid"] for row in self.show("SERVERS") if row["database"] == database]

    def kill_servers(self, database: str) -> None:
        """End the server connections to a database, and wait; the clients stay."""
        pids = self.server_pids(database)
        with closing(psycopg2.connect(self.server.dsn(tcp=False))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s) pid", [pids]
                )
        wait_until(
            lambda: not set(pids) & set(self.server_pids(database)),
            "PgBouncer did not lose its server connections",
        )

    def kill(self, database: str) -> None:
        """End all connections to a database, of clients too; who comes next is welcome."""
        self.run(f'KILL "{database}"')
        self.run(f'RESUME "{database}"')

    def _launch(self, port: int) -> None:
        program = find_pgbouncer()
        if program is None:
            raise PoolerError("PgBouncer is not installed: apt-get install pgbouncer")
        self.port = port
        self._write_files()
        identity: dict[str, Any] = {}
        if not self._account.is_current:
            account = self._account
            identity = {"user": account.uid, "group": account.gid, "extra_groups": ()}
        log = self._account.open_log(self.socket_directory / "log")
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARDED, program, str(self.socket_directory / "ini")],
                env=program_environment(),
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **identity,
            )
        finally:
            os.close(log)

    def _write_files(self) -> None:
        directory = self.socket_directory
        self._account.make_directory(directory)
        settings = {
            "listen_addr": LOOPBACK,
            "listen_port": str(self.port),
            "unix_socket_dir": str(directory),
            "auth_type": "hba",
            "auth_hba_file": str(directory / "hba"),
            "auth_file": str(directory / "users"),
            "auth_user": USER,
            "admin_users": USER,
            **self._settings,
        }
        target = f"* = host={self.server.socket_directory} port={self.server.port}"
        lines = ["[databases]", target, "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        users = f'"{USER}" "{self.server.password or ""}"\n'
        for name, content in (
            ("hba", _ACCESS),
            ("users", users),
            ("ini", "\n".join(lines) + "\n"),
        ):
            self._account.write_private_file(directory / name, content)

    def _becomes_ready(self) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while self.is_running and time.monotonic() < deadline:
            try:
                self.show("VERSION")
            except psycopg2.OperationalError:
                time.sleep(0.01)
            else:
                # it would go on without the port, and somebody else be there
                return _PORT_IS_TAKEN not in self.log
        return False


def free_port() -> int:
    """Return a port that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_for_end(process: subprocess.Popen[bytes]) -> None:
    # newer releases wait for their clients until they are told twice
    for end in (process.terminate, process.kill):
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            end()
        else:
            return
    process.wait()
