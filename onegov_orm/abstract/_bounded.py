"""Names of tables and constraints that are put together from others, and may get too long."""

from __future__ import annotations

import hashlib
from typing import Final

#: PostgreSQL cuts what is longer, silently.
MAX_BYTES: Final = 63
_DIGEST_LENGTH: Final = 8


def bounded_name(name: str) -> str:
    """Return the name, or the beginning of one that is too long with a digest of the whole."""
    encoded = name.encode()
    if len(encoded) <= MAX_BYTES:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:_DIGEST_LENGTH]
    # A character that the cut goes through is left out.
    start = encoded[: MAX_BYTES - _DIGEST_LENGTH - 1].decode(errors="ignore")
    return f"{start}_{digest}"
