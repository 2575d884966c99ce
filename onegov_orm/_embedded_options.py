"""What a private server is asked to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onegov_orm._embedded_binaries import Binaries, find_binaries
from onegov_orm._embedded_cluster import cluster_version
from onegov_orm._embedded_errors import EmbeddedServerError

LOOPBACK = "127.0.0.1"
_DECIDED_HERE = frozenset({"listen_addresses", "port", "unix_socket_directories"})
_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The arguments of `EmbeddedServer`, checked."""

    data_directory: Path | None
    keep: bool
    settings: Mapping[str, str]
    binaries: Binaries | Path | None
    version: int | None
    tcp: bool
    port: int | None
    start_timeout: float

    def __post_init__(self) -> None:
        if self.keep and self.data_directory is None:
            raise ValueError("keep=True needs a data_directory to keep")
        if self.port is not None and not self.tcp:
            raise ValueError("A port is only of use with tcp=True")
        decided = _DECIDED_HERE & self.settings.keys()
        if decided:
            raise ValueError(f"These settings cannot be given: {', '.join(sorted(decided))}")

    def server_settings(self, socket_directory: Path, port: int) -> dict[str, str]:
        """Return all settings for the server's command line."""
        quoted = str(socket_directory).replace('"', '""')
        return {
            **({} if self.keep else _FAST),
            **self.settings,
            "listen_addresses": LOOPBACK if self.tcp else "",
            "unix_socket_directories": f'"{quoted}"',
            "port": str(port),
        }

    def choose_binaries(self) -> Binaries:
        """Return the given binaries, or the newest that can serve the data directory."""
        if isinstance(self.binaries, Binaries):
            return self._checked(self.binaries)
        if self.binaries is not None:
            return self._checked(Binaries.at(self.binaries))
        return self._checked(find_binaries(self.version or self._existing_version()))

    def _existing_version(self) -> int | None:
        return cluster_version(self.data_directory) if self.data_directory else None

    def _checked(self, binaries: Binaries) -> Binaries:
        wanted = self.version or binaries.version
        existing = self._existing_version() or binaries.version
        if binaries.version != wanted:
            raise EmbeddedServerError(
                f"PostgreSQL {wanted} was asked for, but {binaries.directory} has "
                f"PostgreSQL {binaries.version}"
            )
        if binaries.version != existing:
            raise EmbeddedServerError(
                f"{self.data_directory} was made by PostgreSQL {existing}, "
                f"PostgreSQL {binaries.version} cannot serve it"
            )
        return binaries
