"""dogpile.cache's Redis backend, whose entries expire by the command that Redis has for it today.

dogpile.cache 1.5 sends SETEX, which redis-py 8 warns of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dogpile.cache import register_backend
from dogpile.cache.backends.redis import RedisBackend

NAME: Final = "onegov_orm.redis"


class ExpiringRedisBackend(RedisBackend):
    """Keeps each entry for as long as ``redis_expiration_time`` says."""

    def set_serialized(self, key: str, value: bytes) -> None:
        """Keep an entry."""
        self._client.set(key, value, ex=self.redis_expiration_time)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """Keep entries, with one message."""
        pipeline = self._client.pipeline(transaction=False)
        for key, value in mapping.items():
            pipeline.set(key, value, ex=self.redis_expiration_time)
        pipeline.execute()

    @property
    def _client(self) -> Any:
        return self.writer_client


register_backend(NAME, __name__, "ExpiringRedisBackend")  # type: ignore[no-untyped-call]
