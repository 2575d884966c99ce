"""Which version of the library this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

#: Where the library runs from its source, without being installed.
UNKNOWN: Final = "unknown"


def library_version() -> str:
    """Return the version that is installed, or that it is unknown."""
    try:
        return version("onegov_orm")
    except PackageNotFoundError:
        return UNKNOWN
