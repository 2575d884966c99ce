"""Transactions that are tried again when they failed for reasons that go away."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, Final

import tenacity

#: ``serialization_failure`` and ``deadlock_detected``.
_RETRYABLE_STATES: Final = frozenset({"40001", "40P01"})
#: ``feature_not_supported``, which a prepared statement raises after a change of its table.
_NOT_SUPPORTED: Final = "0A000"
_CHANGED_PLAN: Final = "cached plan must not change result type"
#: The server's function that says so, in whatever language.
_CHANGED_PLAN_SOURCE: Final = "RevalidateCachedQuery"
#: What asyncpg has for it, and for a row type that was changed; SQLAlchemy's error of the same
#: name has no SQLSTATE.
_CHANGED_PLAN_CLASSES: Final = frozenset(
    {"InvalidCachedStatementError", "OutdatedSchemaCacheError"}
)

_FIRST_WAIT_SECONDS: Final = 0.02
_LONGEST_WAIT_SECONDS: Final = 2.0


def is_retryable(error: BaseException) -> bool:
    """Tell whether a transaction that failed with this error may succeed when tried again.

    That is so for serialization failures, deadlocks, and prepared statements whose table was
    changed; see PostgreSQL's manual, "Serialization Failure Handling".
    """
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return state in _RETRYABLE_STATES or is_changed_plan(error)


def is_changed_plan(error: BaseException) -> bool:
    """Tell whether a prepared statement failed because its tables are others by now."""
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    names = {type(each).__name__ for each in (original, original.__cause__)}
    if names & _CHANGED_PLAN_CLASSES:
        return True
    source = getattr(getattr(original, "diag", None), "source_function", None)
    return state == _NOT_SUPPORTED and (
        source == _CHANGED_PLAN_SOURCE or _CHANGED_PLAN in str(original)
    )


def wait_seconds(retry_state: tenacity.RetryCallState) -> float:
    """Return how long to wait: exponential back-off with full jitter.

    The scheme is "full jitter" of Marc Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015.
    """
    ceiling = min(
        _LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0 ** (retry_state.attempt_number - 1)
    )
    return random.uniform(0, ceiling)


class Attempt:
    """One try of a block of work, as a context manager that yields the session.

    It commits at the end. A failure that may go away is kept for the next try.
    """

    def __init__(self, attempt: Any, block: Any) -> None:
        self._attempt = attempt
        self._block = block

    @property
    def number(self) -> int:
        """Which try this is, from 1."""
        return int(self._attempt.retry_state.attempt_number)

    def __enter__(self) -> Any:
        self._attempt.__enter__()
        return self._block.__enter__()

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> bool:
        try:
            self._block.__exit__(kind, value, traceback)
        except BaseException as error:
            kind, value, traceback = type(error), error, error.__traceback__
        return _end(self._attempt, kind, value, traceback)


class AsyncAttempt:
    """One try of a block of work, as an asynchronous context manager."""

    def __init__(self, attempt: Any, block: Any) -> None:
        self._attempt = attempt
        self._block = block

    @property
    def number(self) -> int:
        """Which try this is, from 1."""
        return int(self._attempt.retry_state.attempt_number)

    async def __aenter__(self) -> Any:
        self._attempt.__enter__()
        return await self._block.__aenter__()

    async def __aexit__(self, kind: Any, value: Any, traceback: Any) -> bool:
        try:
            await self._block.__aexit__(kind, value, traceback)
        except BaseException as error:
            kind, value, traceback = type(error), error, error.__traceback__
        return _end(self._attempt, kind, value, traceback)


def attempts(tries: int, new_block: Callable[[], Any]) -> Iterator[Attempt]:
    """Yield attempts until one succeeds, at the most ``tries``; the last error is raised."""
    for attempt in tenacity.Retrying(**_policy(tries)):
        yield Attempt(attempt, new_block())


async def async_attempts(
    tries: int, new_block: Callable[[], Any]
) -> AsyncGenerator[AsyncAttempt, None]:
    """Yield attempts in the same way, and wait between them without blocking the loop."""
    async for attempt in tenacity.AsyncRetrying(**_policy(tries)):
        yield AsyncAttempt(attempt, new_block())


def _end(attempt: Any, kind: Any, value: Any, traceback: Any) -> bool:
    """Keep an error for the next try to decide about; what is no Exception is raised."""
    if kind is not None and not issubclass(kind, Exception):
        raise value
    return bool(attempt.__exit__(kind, value, traceback))


def _policy(tries: int) -> dict[str, Any]:
    if tries < 1:
        raise ValueError(f"tries must be at least 1, not {tries}")
    return {
        "stop": tenacity.stop_after_attempt(tries),
        "wait": wait_seconds,
        "retry": tenacity.retry_if_exception(is_retryable),
        "reraise": True,
    }
