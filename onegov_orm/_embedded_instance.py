"""A private server in use by this process, from the first start to the release."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from onegov_orm._embedded_account import DIRECTORY_PREFIX, server_account
from onegov_orm._embedded_binaries import reachable_binaries
from onegov_orm._embedded_cluster import (
    Cluster,
    check_data_directory,
    cluster_version,
    lock_data_directory,
)
from onegov_orm._embedded_errors import EmbeddedServerError
from onegov_orm._embedded_guard import Guard, Plan, QuietProcess, stop_server
from onegov_orm._embedded_options import LOOPBACK, Options
from onegov_orm._embedded_postmaster import Postmaster, running_postmaster

_DEFAULT_PORT = 5432
_RETRY_SECONDS = 2.0
_RETRY_PAUSE_SECONDS = 0.05
_REAP_SECONDS = 5.0
_POLL_SECONDS = 0.005
_TRANSIENT_FAILURES = (
    "Address already in use",
    "pre-existing shared memory block",
    'lock file "postmaster.pid" already exists',
)


@dataclass(slots=True)
class Instance:
    """A data directory in use: its guard, and the server's process if it was started here."""

    options: Options
    cluster: Cluster
    guard: Guard
    socket_directory: Path
    port: int
    process: QuietProcess | None = None
    has_served: bool = False

    def postmaster(self) -> Postmaster | None:
        """Return the running server."""
        return running_postmaster(self.cluster.directory)

    def launch(self) -> None:
        """Start the server; what passes by itself, such as a dying predecessor, is waited for."""
        deadline = time.monotonic() + _RETRY_SECONDS
        while True:
            try:
                return self._launch_once()
            except EmbeddedServerError as error:
                transient = any(text in error.log for text in _TRANSIENT_FAILURES)
                if not transient or time.monotonic() > deadline:
                    raise
            if self.options.tcp and not self.has_served:
                self.port = _choose_port(self.options)
            time.sleep(_RETRY_PAUSE_SECONDS)

    def _launch_once(self) -> None:
        self._reap(_REAP_SECONDS)
        log_start = self.cluster.log_size()
        settings = self.options.server_settings(self.socket_directory, self.port)
        self.process = self.cluster.spawn(self.guard, settings)
        ready = False
        try:
            ready = self._becomes_ready(self.process)
        finally:
            if not ready:
                self._end_process(self.process)
            self.guard.mark_settled()
        if not ready:
            raise EmbeddedServerError(
                f"PostgreSQL {self.cluster.binaries.version} did not start "
                f"on {self.cluster.directory}",
                self.cluster.read_log(log_start),
            )
        self.has_served = True

    def _end_process(self, process: QuietProcess) -> None:
        for number in (signal.SIGQUIT, signal.SIGKILL):
            process.send_signal(number)
            self._reap(_REAP_SECONDS)

    def _becomes_ready(self, process: QuietProcess) -> bool:
        deadline = time.monotonic() + self.options.start_timeout
        while process.poll() is None and time.monotonic() < deadline:
            postmaster = Postmaster.read(self.cluster.directory)
            if postmaster and postmaster.pid == process.pid and postmaster.is_ready:
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def stop(self, mode: str, timeout: float) -> None:
        """Stop the server for all its users."""
        self._reap(0)
        if not stop_server(self.guard.plan, mode, timeout):
            raise EmbeddedServerError(
                f"The server did not stop within {timeout:g} seconds (mode {mode})",
                self.cluster.read_log(),
            )
        self._reap(_REAP_SECONDS)

    def release(self) -> None:
        """Let the guard end what nobody else uses; in a forked child, do nothing."""
        if self.guard.is_forked:
            return
        self._reap(0)
        self.guard.release()
        if self.postmaster() is None:
            self._reap(_REAP_SECONDS)

    def _reap(self, seconds: float) -> None:
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)


def open_instance(options: Options) -> Instance:
    """Take a data directory in use, and start its server or attach to it."""
    account = server_account(options.data_directory)
    binaries = reachable_binaries(options.choose_binaries(), account)
    with contextlib.ExitStack() as undo:
        cluster = Cluster(
            options.data_directory or account.new_temporary_path(), account, binaries
        )
        lock = _take_in_use(cluster, options, undo)
        instance = _guarded_instance(cluster, options, lock)
        undo.pop_all()
        undo.callback(instance.release)
        _set_up(instance)
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_SH)
        undo.pop_all()
    return instance


def _take_in_use(cluster: Cluster, options: Options, undo: contextlib.ExitStack) -> int | None:
    """Make and lock a given data directory; a temporary one is made when its guard is there."""
    if options.data_directory is None:
        return None
    lock = lock_data_directory(cluster.directory, cluster.account, options.start_timeout)
    undo.callback(os.close, lock)
    check_data_directory(cluster.directory, keep=options.keep)
    return lock


def _guarded_instance(cluster: Cluster, options: Options, lock: int | None) -> Instance:
    """Set a guard on what will be made, before it is made."""
    running = running_postmaster(cluster.directory)
    if running:
        _check_attachable(running, options)
        port, sockets = running.port, running.socket_directory
    else:
        port = _choose_port(options)
        sockets = cluster.remembered_socket_directory() or cluster.account.new_socket_path()
    guard = Guard(_plan(options, cluster, lock, sockets))
    return Instance(options, cluster, guard, sockets, port)


def _check_attachable(running: Postmaster, options: Options) -> None:
    if not running.socket_directory.name.startswith(DIRECTORY_PREFIX):
        raise EmbeddedServerError(
            f"{options.data_directory} is served by process {running.pid}, which was not started "
            "by onegov_orm: stop that server first"
        )
    if options.tcp and running.listen_address != LOOPBACK:
        raise EmbeddedServerError(
            f"The server that runs on {options.data_directory} does not listen on TCP: "
            "stop it, or attach to it without tcp=True"
        )
    if options.port not in (None, running.port):
        raise EmbeddedServerError(
            f"The server that runs on {options.data_directory} listens on port {running.port}, "
            f"not on {options.port}"
        )


def _plan(options: Options, cluster: Cluster, lock: int | None, socket_directory: Path) -> Plan:
    data_directory = str(cluster.directory)
    is_new = cluster_version(cluster.directory) is None
    foreign = not cluster.account.is_current
    return Plan(
        data_directory=data_directory,
        pg_ctl=cluster.binaries.program("pg_ctl"),
        lock=lock,
        stop_mode="fast" if options.keep else "immediate",
        remove=(str(socket_directory), *(() if options.keep else (data_directory,))),
        remove_unless_initialised=(data_directory,) if is_new else (),
        user=cluster.account.uid if foreign else None,
        group=cluster.account.gid if foreign else None,
    )


def _set_up(instance: Instance) -> None:
    cluster = instance.cluster
    if instance.postmaster() is None:
        for directory in (cluster.directory, instance.socket_directory):
            if not directory.exists():
                cluster.account.make_directory(directory)
        if cluster_version(cluster.directory) is None:
            cluster.initialise(instance.guard, instance.socket_directory)
        cluster.remember_socket_directory(instance.socket_directory)
        instance.launch()
    _check_guard(instance.guard)


def _check_guard(guard: Guard) -> None:
    if not guard.is_watching():
        raise EmbeddedServerError("The process that guards the server could not be started")


def _choose_port(options: Options) -> int:
    """Choose a port; without TCP it only names the socket, which is in a directory of its own."""
    if options.port is not None:
        return options.port
    return _free_port() if options.tcp else _DEFAULT_PORT


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port
