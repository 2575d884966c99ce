"""A real Redis for tests, on a socket of its own."""

from __future__ import annotations

import shutil
import signal
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
        with redis.Redis(unix_socket_path=str(self._socket)) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
