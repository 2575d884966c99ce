"""The data directory of a private server: making it, sharing it, running programs on it."""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onegov_orm._embedded_account import Account, program_environment
from onegov_orm._embedded_binaries import Binaries
from onegov_orm._embedded_errors import EmbeddedServerError
from onegov_orm._embedded_guard import Guard, QuietProcess, try_lock

_LOCK_POLL_SECONDS = 0.02
_PASSWORD_BYTES = 24
_TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Cluster:
    """A data directory with the account that owns it and the binaries that serve it."""

    directory: Path
    account: Account
    binaries: Binaries

    @property
    def log_path(self) -> Path:
        return self.directory / "onegov_orm.log"

    @property
    def password_path(self) -> Path:
        return self.directory / "onegov_orm.password"

    def run(self, program: str, *arguments: str, **environment: str) -> str:
        """Run a program of PostgreSQL as the server's account and return what it prints."""
        command = [self.binaries.program(program), *arguments]
        result = self.account.run(command, program_environment() | environment)
        if result.returncode != 0:
            raise EmbeddedServerError(
                f"{program} failed with exit status {result.returncode}", result.stdout
            )
        return result.stdout

    def initialise(self, guard: Guard, scratch: Path) -> None:
        """Fill the empty directory; the scratch directory passes the password on."""
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        password_file = scratch / "password"
        self.account.write_private_file(password_file, password)
        command = [self.binaries.program("initdb"), *self._initdb_arguments(password_file)]
        process = guard.spawn(command, program_environment(), subprocess.PIPE)
        try:
            output, _ = process.communicate()
        finally:
            process.kill()
            process.wait()
        guard.mark_settled()
        if process.returncode != 0:
            raise EmbeddedServerError(
                f"initdb failed with exit status {process.returncode}",
                output.decode(errors="replace"),
            )
        password_file.unlink()
        self.account.write_private_file(self.password_path, password)
        guard.mark_initialised()

    def _initdb_arguments(self, password_file: Path) -> list[str]:
        return [
            f"--pgdata={self.directory}",
            f"--pwfile={password_file}",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--no-instructions",
            "--no-sync",
        ]

    def spawn(self, guard: Guard, settings: Mapping[str, str]) -> QuietProcess:
        """Start the server, which says in its log how it fares."""
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        command = [self.binaries.program("postgres"), "-D", str(self.directory), *arguments]
        log = self.account.open_log(self.log_path)
        try:
            return guard.spawn(command, program_environment(), log)
        finally:
            os.close(log)

    def remember_socket_directory(self, path: Path) -> None:
        """Note where the sockets are, so that all users of a server have the same address."""
        self._socket_note.unlink(missing_ok=True)
        self.account.write_private_file(self._socket_note, f"{self.directory}\n{path}")

    def remembered_socket_directory(self) -> Path | None:
        """Return the noted directory if it exists; the note copied to a replica does not count."""
        try:
            place, _, path = self._socket_note.read_text(encoding="utf-8").partition("\n")
        except FileNotFoundError:
            return None
        usable = place == str(self.directory) and self.account.owns(Path(path))
        return Path(path) if usable else None

    @property
    def _socket_note(self) -> Path:
        return self.directory / "onegov_orm.sockets"

    def log_size(self) -> int:
        """Return the size of the log, from where a later tail can begin."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def read_log(self, start: int = 0) -> str:
        """Return the end of the log, but nothing from before the given offset."""
        size = self.log_size()
        if not size:
            return ""
        with self.log_path.open("rb") as file:
            file.seek(max(start, size - _TAIL_BYTES))
            return file.read().decode(errors="replace").strip()

    def password(self) -> str | None:
        """Return the password of `postgres`, if this library has made the cluster."""
        try:
            return self.password_path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None


def cluster_version(directory: Path) -> int | None:
    """Return the major version of the cluster in a directory, or None if it holds none."""
    try:
        return int((directory / "PG_VERSION").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None


def make_data_directory(path: Path, account: Account) -> None:
    """Make a data directory that belongs to an account, unless there is one with data."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not account.can_reach(path):
        raise EmbeddedServerError(
            f"The user {account.name}, which runs the server because root may not, cannot reach "
            f"{path}: choose a data directory outside of directories that only root can enter"
        )
    if _is_empty(path):
        account.own(path)


def check_data_directory(path: Path, *, keep: bool) -> None:
    """Refuse a directory with files that are not ours to use, or not ours to remove."""
    if _is_empty(path):
        return
    if cluster_version(path) is None:
        raise EmbeddedServerError(f"{path} is neither empty nor a PostgreSQL data directory")
    if not keep:
        raise EmbeddedServerError(
            f"{path} holds data already: pass keep=True to use and keep them"
        )


def lock_data_directory(path: Path, account: Account, timeout: float) -> int:
    """Make and lock a data directory, and return the descriptor that holds the lock.

    The lock is exclusive if nobody else uses the directory, and shared if others run a server
    on it. While another process makes or stops that server, wait.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        make_data_directory(path, account)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        # whoever had the lock before may have removed the directory
        if _is_locked(descriptor, path) and _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)
        time.sleep(_LOCK_POLL_SECONDS)
    raise EmbeddedServerError(f"{path} has been locked by another process for too long")


def _is_at(descriptor: int, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())


def _is_locked(descriptor: int, path: Path) -> bool:
    if try_lock(descriptor, fcntl.LOCK_EX):
        return True
    if try_lock(descriptor, fcntl.LOCK_SH):
        if cluster_version(path) is not None:
            return True
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _is_empty(path: Path) -> bool:
    return next(path.iterdir(), None) is None
