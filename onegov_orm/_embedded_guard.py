"""A process that ends a private server when its owner is gone, however that came about.

The owner holds the writing end of a pipe that the guard reads. When the owner ends, be it by
SIGKILL, the system closes that end: the guard stops the server and removes its directories. The
owner's orderly way out is the same one, it closes the pipe and waits for the guard.

A lock on a data directory that is kept counts its users: only the last one out stops the server.
The guard runs this file as a script, hence nothing but the standard library is imported here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypedDict

_WATCHING = b"watching\n"
_INITIALISED = "initialised"
_PROGRAM = "program"
_GATE = 'read go && exec "$0" "$@" </dev/null'
_STOP_SECONDS = 10.0
_END_SECONDS = 5.0
_REMOVE_SECONDS = 5.0
_POLL_SECONDS = 0.005


class Identity(TypedDict, total=False):
    """Whom a process runs as, if not as its parent."""

    user: int
    group: int
    extra_groups: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What a guard does at the end, and whose rights its programs get."""

    data_directory: str
    pg_ctl: str
    lock: int | None
    stop_mode: str
    remove: tuple[str, ...] = ()
    remove_unless_initialised: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None

    @property
    def pid_file(self) -> Path:
        return Path(self.data_directory, "postmaster.pid")

    def identity(self) -> Identity:
        """Return the arguments that start a process as the server's user."""
        if self.user is None or self.group is None:
            return {}
        return {"user": self.user, "group": self.group, "extra_groups": ()}

    def control(self, *arguments: str) -> bool:
        """Run pg_ctl as the server's user and tell whether it succeeded."""
        command = [self.pg_ctl, *arguments]
        result = subprocess.run(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            **self.identity(),
        )
        return result.returncode == 0


def stop_server(plan: Plan, mode: str, timeout: float = _STOP_SECONDS) -> bool:
    """Tell a server to stop; return whether it is down before the time is over."""
    if not plan.control("stop", "-D", plan.data_directory, "-m", mode, "-W"):
        return True
    return _is_gone(plan.pid_file, timeout)


def _is_gone(path: Path, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def carry_out(plan: Plan, messages: list[str]) -> None:
    """Stop the server and remove what shall not stay, unless somebody else still uses it."""
    _end_program(_last_program(messages))
    if plan.lock is not None and not try_lock(plan.lock, fcntl.LOCK_EX):
        return
    _force_stop(plan)
    for directory in plan.remove:
        _remove_directory(directory)
    for directory in () if _INITIALISED in messages else plan.remove_unless_initialised:
        _remove_directory(directory)
    if plan.lock is not None:
        fcntl.flock(plan.lock, fcntl.LOCK_UN)


def _last_program(messages: list[str]) -> int:
    pids = [int(line.split()[1]) for line in messages if line.startswith(_PROGRAM)]
    return pids[-1] if pids else 0


def _end_program(pid: int) -> None:
    """End an initdb or a server that is not ready yet, with its children.

    Only initdb itself is told to end: its children then end in good order, by themselves.
    """
    if pid and _is_group(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _END_SECONDS
        while _is_group(pid) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _is_group(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def try_lock(descriptor: int, kind: int) -> bool:
    """Take or convert a lock if that is possible at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _force_stop(plan: Plan) -> None:
    if any(stop_server(plan, mode) for mode in dict.fromkeys((plan.stop_mode, "immediate"))):
        return
    # a halted server reacts to nothing else; its backends follow it by themselves
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int(plan.pid_file.read_text(encoding="utf-8").split()[0])
        plan.control("kill", "KILL", str(pid))


def _remove_directory(path: str) -> None:
    """Remove a directory, again if an initdb without its parent still writes into it."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while os.path.lexists(path) and time.monotonic() < deadline:
        shutil.rmtree(path, ignore_errors=True)
        if os.path.lexists(path):
            time.sleep(_POLL_SECONDS)


class QuietProcess(subprocess.Popen[bytes]):
    """A child that may outlive this object: a guard looks after it, so nothing warns about it."""

    def __del__(self) -> None:
        """Do without the warning about a child that still runs."""


class Guard:
    """The owner's side: the guard's process and the pipe that keeps it waiting."""

    def __init__(self, plan: Plan) -> None:
        self.owner = os.getpid()
        self._plan = plan
        self._messages: list[str] = []
        reading, self._pipe = os.pipe()
        try:
            self._process = _start_guard(plan, reading)
        except BaseException:
            self._close_pipe()
            raise
        finally:
            os.close(reading)
        _watch_forks()
        _guards.add(self)

    @property
    def plan(self) -> Plan:
        return self._plan

    @property
    def is_forked(self) -> bool:
        return self.owner != os.getpid()

    def is_watching(self) -> bool:
        """Wait until the guard has started; false if it could not."""
        return self._output.readline() == _WATCHING

    def mark_initialised(self) -> None:
        """Tell the guard that the data directory is complete."""
        self._tell(_INITIALISED)

    def spawn(
        self, command: Sequence[str], environment: Mapping[str, str], output: int
    ) -> QuietProcess:
        """Start a program as the server's user, once the guard knows of it.

        The guard ends it with the owner, until `mark_settled` is called.
        """
        reading, gate = os.pipe()
        try:
            process = QuietProcess(
                ["/bin/sh", "-c", _GATE, *command],
                env=environment,
                cwd="/",
                stdin=reading,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._plan.identity(),
            )
            self._tell(f"{_PROGRAM} {process.pid}")
            with contextlib.suppress(BrokenPipeError):
                os.write(gate, b"go\n")
        finally:
            os.close(reading)
            os.close(gate)
        return process

    def mark_settled(self) -> None:
        """Tell the guard that the program has ended, or is a server that it can find."""
        self._tell(f"{_PROGRAM} 0")

    def _tell(self, message: str) -> None:
        self._messages.append(message)
        # without the guard, `release` does its work
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe, f"{message}\n".encode())

    def release(self) -> None:
        """Let the guard do its work, and wait for it; in a forked child, do nothing."""
        if self.is_forked or self._pipe < 0:
            return
        self._close_pipe()
        if self._process.wait() != 0:
            carry_out(self._plan, self._messages)
        self._close_others()

    def abandon(self) -> None:
        """Give up what a forked child has inherited, for it would keep the guard waiting."""
        if self._pipe >= 0:
            self._close_pipe()
            self._close_others()

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _close_others(self) -> None:
        self._output.close()
        if self._plan.lock is not None:
            os.close(self._plan.lock)

    def _close_pipe(self) -> None:
        pipe, self._pipe = self._pipe, -1
        os.close(pipe)


_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


@functools.cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_abandon_guards)


def _abandon_guards() -> None:
    for guard in list(_guards):
        guard.abandon()
    _guards.clear()


def _start_guard(plan: Plan, pipe: int) -> QuietProcess:
    return QuietProcess(
        [sys.executable, "-I", "-S", __file__, json.dumps(dataclasses.asdict(plan))],
        cwd="/",
        stdin=pipe,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=[] if plan.lock is None else [plan.lock],
        start_new_session=True,
    )


def main(plan: Plan) -> None:
    """Wait for the end of the owner, whom no signal to its group or service may outlast."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    # the owner may be gone already
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), _WATCHING)
    carry_out(plan, sys.stdin.read().splitlines())


if __name__ == "__main__":
    main(Plan(**json.loads(sys.argv[1])))
