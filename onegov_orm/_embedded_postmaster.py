"""What a running server tells about itself in the file `postmaster.pid`."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

_CONNECT_SECONDS = 1.0
_READY = ("ready", "standby")


@dataclass(frozen=True, slots=True)
class Postmaster:
    """The main process of a server, as its data directory describes it."""

    pid: int
    port: int
    socket_directory: Path
    listen_address: str
    status: str

    @classmethod
    def read(cls, data_directory: Path) -> Postmaster | None:
        """Read the description, or return None while there is none that is complete."""
        try:
            text = (data_directory / "postmaster.pid").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> Postmaster | None:
        """Parse the eight lines that a server has written once it has started up."""
        lines = [line.strip() for line in text.splitlines()]
        if len(lines) < 8:
            return None
        pid, _, _, port, socket_directory, listen_address, _, status = lines[:8]
        return cls(int(pid), int(port), Path(socket_directory), listen_address, status)

    @property
    def is_ready(self) -> bool:
        return self.status in _READY

    def is_listening(self) -> bool:
        """Try to connect, so that no stale file, zombie or reused pid passes for a server."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_CONNECT_SECONDS)
            try:
                connection.connect(str(self.socket_directory / f".s.PGSQL.{self.port}"))
            except (BlockingIOError, TimeoutError):
                return True  # its queue is full: it is there, but slow or halted
            except OSError:
                return False
        return True


def running_postmaster(data_directory: Path) -> Postmaster | None:
    """Return the server that accepts connections on this data directory, if there is one."""
    postmaster = Postmaster.read(data_directory)
    if postmaster and postmaster.is_ready and postmaster.is_listening():
        return postmaster
    return None
