"""Which server a reading session reads from.

What is known of the replicas comes from checks, which nobody waits for: who finds the
knowledge old has it renewed in the background, and goes on with what is known. A replica is
used if it had, at a time that is known, replayed all that the primary had committed by then;
that time has to be recent, and later than the last write of the thread or task that reads.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from onegov_orm import _sql

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from sqlalchemy.pool import PoolProxiedConnection

    from onegov_orm.context import Current

logger = logging.getLogger("onegov_orm.replicas")

#: How old the knowledge may be before it is renewed.
CHECK_SECONDS: Final = 1.0
#: How long a replica that is down is left alone, at first and at most.
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 30.0

#: What a driver raises when a server can't be reached; asyncpg leaves the system's errors.
_UNREACHABLE: Final = (DBAPIError, OSError)


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What is known of a replica."""

    name: str
    is_usable: bool
    #: How old its data may be, in seconds; infinite if it was never seen up to date.
    lag_seconds: float
    #: Why it is not used.
    reason: str | None = None


@dataclass(eq=False)
class Replica:
    """One replica, and what is known of it."""

    engine: Engine
    #: When the primary had committed no more than this replica has replayed; monotonic.
    fresh_as_of: float = -math.inf
    reason: str | None = "it was not checked yet"
    pause_seconds: float = _FIRST_PAUSE_SECONDS
    left_alone_until: float = -math.inf
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.engine.url.render_as_string(hide_password=True)

    def came_up(self, fresh_as_of: float | None) -> None:
        """Note that it answered, and how fresh it is if that is known."""
        if self.reason is not None:
            logger.info("the replica %s is used", self.name)
        self.reason = None
        self.pause_seconds = _FIRST_PAUSE_SECONDS
        if fresh_as_of is not None:
            self.fresh_as_of = fresh_as_of

    def went_down(self, reason: str) -> None:
        """Leave it alone for a while, and longer each time."""
        if self.reason is None:
            logger.warning("the replica %s is not used: %s", self.name, reason)
        self.reason = reason
        self.left_alone_until = time.monotonic() + self.pause_seconds
        self.pause_seconds = min(_LONGEST_PAUSE_SECONDS, 2 * self.pause_seconds)

    def status(self, max_lag_seconds: float) -> ReplicaStatus:
        """Return what people read."""
        lag = time.monotonic() - self.fresh_as_of
        reason = self.reason
        if reason is None and lag > max_lag_seconds:
            reason = f"it lags more than {max_lag_seconds:g} s"
        return ReplicaStatus(self.name, reason is None, lag, reason)


class Replicas:
    """The replicas of one manager: the route of its reading sessions.

    ``launch`` runs a function in the background.
    """

    def __init__(
        self,
        primary: Engine,
        engines: Sequence[Engine],
        current: Current,
        max_lag_seconds: float,
        launch: Callable[[Callable[[], Any]], None],
    ) -> None:
        self.engines = list(engines)
        self._primary = primary
        self._current = current
        self._max_lag_seconds = max_lag_seconds
        self._launch = launch
        self._turns = itertools.count()
        self._admitted: dict[str, float] = {}
        self.start_anew()

    def start_anew(self) -> None:
        """Forget what is known, in a forked child."""
        self._replicas = [Replica(engine) for engine in self.engines]
        self._checked_at = -math.inf
        self._is_checking = threading.Lock()

    def wrote(self) -> None:
        """Have the readers of this thread or task see what was committed until now."""
        self._current.last_write.set(time.monotonic())

    def admit(self, schema: str) -> None:
        """Note that the primary has the schema: a replica may get it later."""
        self._admitted.setdefault(schema, time.monotonic())

    def connect(self, schema: str | None) -> PoolProxiedConnection | None:
        """Return a connection to the next replica that is fit, None for the primary."""
        now = time.monotonic()
        if now - self._checked_at > CHECK_SECONDS and not self._is_checking.locked():
            self._launch(self.check)
        oldest = max(
            now - self._max_lag_seconds,
            self._current.last_write.get(),
            self._admitted.get(schema or "", -math.inf),
        )
        for replica in self._in_turn():
            if replica.reason is None and replica.fresh_as_of > oldest:
                try:
                    return replica.engine.raw_connection()
                except _UNREACHABLE as exc:
                    replica.went_down(_reason(exc))
        return None

    def check(self) -> list[ReplicaStatus]:
        """Ask all servers now; while somebody else does so already, what is known is returned."""
        if self._is_checking.acquire(blocking=False):
            try:
                self._check()
            finally:
                self._checked_at = time.monotonic()
                self._is_checking.release()
        return [replica.status(self._max_lag_seconds) for replica in self._replicas]

    def dispose(self) -> None:
        """Close the connections that nobody has."""
        for engine in self.engines:
            engine.dispose()

    def _in_turn(self) -> Iterator[Replica]:
        turn = next(self._turns)
        for number in range(len(self._replicas)):
            yield self._replicas[(turn + number) % len(self._replicas)]

    def _check(self) -> None:
        asked_at = time.monotonic()
        try:
            with self._primary.connect() as connection:
                log_end, *identity = connection.execute(text(_sql.LOG_END)).one()
        except _UNREACHABLE as exc:
            # The replicas go on as long as they are fresh enough for what they were.
            logger.warning("the primary does not answer: %s", _reason(exc))
            return
        for replica in self._replicas:
            if replica.left_alone_until <= asked_at:
                self._ask(replica, asked_at, log_end, identity)

    def _ask(self, replica: Replica, asked_at: float, log_end: str, identity: list[str]) -> None:
        try:
            with replica.engine.connect() as connection:
                row = connection.execute(text(_sql.REPLAYED), {"lsn": log_end}).one()
        except _UNREACHABLE as exc:
            replica.went_down(_reason(exc))
            return
        is_standby, is_replayed, *found = row
        if found != identity:
            replica.went_down("it is no copy of the primary's database")
        elif not is_standby:
            replica.went_down("it is no standby any more")
        else:
            replica.came_up(asked_at if is_replayed else None)


def in_thread(work: Callable[[], Any]) -> None:
    """Run the work in a thread that nobody waits for."""
    threading.Thread(target=work, name="onegov_orm replicas", daemon=True).start()


def _reason(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).strip().partition("\n")[0] or type(original).__name__
