"""A real Redis for tests, on a socket of its own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis


def find_redis() -> str | None:
    """Return the server's program, None if the machine has none."""
    return shutil.which("redis-server")


class RedisServer:
    """Runs from the beginning to the end of a block, and can be away in between."""

    def __init__(self) -> None:
        # Paths of sockets are short.
        self._directory = tempfile.TemporaryDirectory(prefix="redis-", dir="/tmp")
        self._socket = Path(self._directory.name) / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"unix://{self._socket}"

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._directory.cleanup()

    def client(self) -> Any:
        """Return a client of the server."""
        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        """Start the server, with what it saved before."""
        program = find_redis()
        assert program is not None
        settings = ["--port", "0", "--unixsocket", str(self._socket), "--save", ""]
        self._process = subprocess.Popen(
            [program, *settings, "--appendonly", "yes", "--appendfsync", "always"],
            cwd=self._directory.name,
            stdout=subprocess.DEVNULL,
        )
        self._wait()

    def stop(self) -> None:
        """Stop the server; what it holds is there after the next start."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10)
            self._process = None

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while not self._answers():
            if time.monotonic() > deadline:
                raise TimeoutError("Redis does not answer")
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self._socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(5) == b"+PONG"
            except OSError:
                return False
