"""The account of the operating system that a private server runs as.

PostgreSQL refuses to run as root. If root asks for a server, it runs as `postgres` or `nobody`,
and the directories made for it belong to that account.
"""

from __future__ import annotations

import os
import pwd
import secrets
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onegov_orm._embedded_errors import EmbeddedServerError, EmbeddedUnavailable

DIRECTORY_PREFIX = "onegov-orm-"
_UNPRIVILEGED = ("postgres", "nobody")
_ROOT = 0
_NAME_BYTES = 6
# some systems allow 103 bytes for the path of a socket
_LONGEST_SOCKET_PARENT = 60


@dataclass(frozen=True, slots=True)
class Account:
    """A user and group, and what can be done in their name."""

    name: str
    uid: int
    gid: int

    @classmethod
    def current(cls) -> Account:
        return cls.of_user(os.geteuid(), os.getegid())

    @classmethod
    def of_user(cls, uid: int, gid: int) -> Account:
        """Return the account of a user id, which need not be in the user database."""
        try:
            return cls(pwd.getpwuid(uid).pw_name, uid, gid)
        except KeyError:
            return cls(str(uid), uid, gid)

    @property
    def is_current(self) -> bool:
        return self.uid == os.geteuid()

    @property
    def is_root(self) -> bool:
        return self.uid == _ROOT

    def run(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in this account to its end; what it prints is captured, as one text."""
        return subprocess.run(
            command,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
            user=None if self.is_current else self.uid,
            group=None if self.is_current else self.gid,
            extra_groups=None if self.is_current else (),
        )

    def can_reach(self, path: Path) -> bool:
        """Tell whether this account may pass through every directory above a path."""
        return all(self._can_enter(parent) for parent in path.resolve().parents)

    def _can_enter(self, directory: Path) -> bool:
        if self.is_current:
            return os.access(directory, os.X_OK)
        info = directory.stat()
        if info.st_uid == self.uid:
            return bool(info.st_mode & stat.S_IXUSR)
        if info.st_gid == self.gid:
            return bool(info.st_mode & stat.S_IXGRP)
        return bool(info.st_mode & stat.S_IXOTH)

    def own(self, path: Path) -> None:
        """Give a directory to this account alone."""
        path.chmod(0o700)
        if not self.is_current:
            os.chown(path, self.uid, self.gid)

    def owns(self, path: Path) -> bool:
        """Tell whether a path is a directory, not a link, that belongs to this account alone."""
        try:
            info = path.lstat()
        except FileNotFoundError:
            return False
        is_private = stat.S_ISDIR(info.st_mode) and not info.st_mode & 0o077
        return is_private and info.st_uid == self.uid

    def make_directory(self, path: Path) -> None:
        """Make a new directory for this account alone."""
        path.mkdir(mode=0o700)
        self.own(path)

    def new_temporary_path(self) -> Path:
        """Name a directory that does not exist yet, where this account can reach it."""
        return self._new_path(temporary_parents())

    def new_socket_path(self) -> Path:
        """Name a directory for sockets: short, and without the comma that splits lists of them."""
        parents = [parent for parent in temporary_parents() if "," not in str(parent)]
        short = [each for each in parents if len(os.fsencode(each)) <= _LONGEST_SOCKET_PARENT]
        return self._new_path(short)

    def _new_path(self, parents: list[Path]) -> Path:
        name = DIRECTORY_PREFIX + secrets.token_hex(_NAME_BYTES)
        for parent in parents:
            if os.access(parent, os.W_OK | os.X_OK) and self.can_reach(parent / name):
                return parent / name
        raise EmbeddedServerError(
            f"No temporary directory is within reach of the user {self.name}: "
            "set TMPDIR to a short path that every user can enter"
        )

    def write_private_file(self, path: Path, content: str) -> None:
        """Write a new file that only this account can read, following no link."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
            self._take(file.fileno())

    def open_log(self, path: Path) -> int:
        """Open a log for appending, following no link, and return its file descriptor."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        self._take(descriptor)
        return descriptor

    def _take(self, descriptor: int) -> None:
        if not self.is_current:
            os.fchown(descriptor, self.uid, self.gid)


def temporary_parents() -> list[Path]:
    """Return the places for temporary directories, the preferred one first."""
    return [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]


def server_account(data_directory: Path | None) -> Account:
    """Choose the account of a server: the current one, but never root.

    Root runs a server as the owner of its data directory, if it exists and is not root's.
    """
    current = Account.current()
    if not current.is_root:
        return current
    if data_directory and data_directory.exists():
        info = data_directory.stat()
        if info.st_uid != _ROOT:
            return Account.of_user(info.st_uid, info.st_gid)
    return _unprivileged_account()


def _unprivileged_account() -> Account:
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedUnavailable(
        "PostgreSQL does not run as root, and there is no user "
        f"{' or '.join(_UNPRIVILEGED)} to run it as: create one of them"
    )


def program_environment() -> dict[str, str]:
    """Return the environment for PostgreSQL's programs: no PG variables, English, UTF-8, UTC."""
    environment = {name: value for name, value in os.environ.items() if name[:2] != "PG"}
    return environment | {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
