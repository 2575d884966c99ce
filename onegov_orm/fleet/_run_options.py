"""How a step is run in many schemas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onegov_orm.errors import ConfigurationError

if TYPE_CHECKING:
    from onegov_orm.names import SchemaName


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a step is run.

    :param workers: how many schemas at a time.
    :param canary: so many schemas go first; if one fails, the others are left alone.
    :param wave_size: how many of the others go together; after a wave with a failure no
        further one begins. None: all in one wave.
    :param fail_fast: begin no other schema after the first failure.
    :param lock_timeout_seconds: how long a statement waits for a lock of others.
    :param tries: how often a schema is tried if locks or conflicts were in the way.
    """

    workers: int = 4
    canary: int = 0
    wave_size: int | None = None
    fail_fast: bool = False
    lock_timeout_seconds: float = 10.0
    tries: int = 3

    def __post_init__(self) -> None:
        limits = {"workers": 1, "canary": 0, "wave_size": 1, "tries": 1}
        for name, least in limits.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigurationError(f"{name} has to be at least {least}, not {value}")
        if not self.lock_timeout_seconds > 0:
            raise ConfigurationError(
                f"lock_timeout_seconds has to be positive, not {self.lock_timeout_seconds}"
            )

    def waves(self, schemas: Sequence[SchemaName]) -> Iterator[Sequence[SchemaName]]:
        """Yield the schemas in the groups that go one after the other."""
        if self.canary:
            yield schemas[: self.canary]
        rest = schemas[self.canary :]
        size = self.wave_size or max(1, len(rest))
        for start in range(0, len(rest), size):
            yield rest[start : start + size]


DEFAULT_OPTIONS: Final = RunOptions()
