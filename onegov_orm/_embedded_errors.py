"""What can go wrong with a private PostgreSQL server."""

from __future__ import annotations

from onegov_orm.errors import OrmError


class EmbeddedUnavailable(OrmError):
    """No PostgreSQL server can be run here: what is missing, and what to install."""


class EmbeddedServerError(OrmError):
    """A private server did not do what it was told; `log` is what it or its program said."""

    def __init__(self, message: str, log: str = "") -> None:
        self.log = log.strip()
        super().__init__(f"{message}\n\n{self.log}" if self.log else message)
