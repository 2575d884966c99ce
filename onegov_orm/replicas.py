"""Which server a reading session reads from.

What is known of the replicas comes from checks, which nobody waits for: who finds the
knowledge old has it renewed in the background, and goes on with what is known. A replica is
used if it had, at a time that is known, replayed all that the primary had committed by then;
that time has to be recent, and later than the last write of the thread or task that reads.

Each replica is checked on its own and within a time limit, so that one that hangs is but a
replica less. The checks have connections of their own, which no rush can use up.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeoutError

from onegov_orm import _sql
from onegov_orm._pool import driver_connection

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.pool import PoolProxiedConnection

    from onegov_orm.context import Current

logger = logging.getLogger("onegov_orm.replicas")

#: How old the knowledge may be before it is renewed.
CHECK_SECONDS: Final = 1.0
#: A replica that answers no check for so long is left out until it does.
_SLOW_SECONDS: Final = 1.0
#: How long a server may take to answer a check.
ANSWER_SECONDS: Final = 3.0
#: How long a replica that is down is left alone, at first and at most.
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 30.0
#: A check that was not heard of for so long was lost, with its thread or event loop.
_LOST_SECONDS: Final = 30.0

#: What runs a function in the background.
Launch = Callable[[Callable[[], Any]], None]


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What is known of a replica."""

    name: str
    is_usable: bool
    #: How old its data may be, in seconds; infinite if it was never seen up to date.
    lag_seconds: float
    #: Why it is not used.
    reason: str | None = None


class LogEnd(NamedTuple):
    """Where the primary's log ended when it was asked, and which database that is."""

    asked_at: float
    #: What is in the log, and what of it is written for good. Much of the rest may be of no
    #: transaction at all, and stay there until the next commit.
    inserted: str
    flushed: str
    #: After how many seconds each commit is written for good, however it was made.
    delay_seconds: float
    identity: tuple[str, ...]

    def fresh_as_of(self, has_inserted: bool, has_flushed: bool) -> float | None:
        """Return since when a replica may lack something, None if that is not known."""
        if has_inserted:
            return self.asked_at
        return self.asked_at - self.delay_seconds if has_flushed else None


class Turn:
    """The right to do something that one at a time does, and nobody waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Since when somebody has it.
        self.since: float | None = None

    def take(self) -> bool:
        """Take the right, if nobody has it, or has lost it."""
        now = time.monotonic()
        with self._lock:
            if self.since is not None and now - self.since < _LOST_SECONDS:
                return False
            self.since = now
            return True

    def give_back(self) -> None:
        """Let somebody else take it."""
        self.since = None


class OwnPool:
    """Leads to connections that are set up like an engine's, and taken by nobody else."""

    def __init__(self, engine: Engine) -> None:
        self.pool = engine.pool.recreate()
        self.engine = engine.execution_options(route=self)

    def connect(self, schema: str | None) -> PoolProxiedConnection:
        """Return a connection."""
        return self.pool.connect()

    def dispose(self) -> None:
        """Close the connections that nobody has; the pool can be used and disposed again."""
        self.pool.dispose()


@dataclass(eq=False)
class Replica:
    """One replica, and what is known of it."""

    engine: Engine
    #: A time at which all was replayed here that the primary had committed by then; monotonic.
    fresh_as_of: float = -math.inf
    reason: str | None = "it was not checked yet"
    pause_seconds: float = _FIRST_PAUSE_SECONDS
    left_alone_until: float = -math.inf
    check: Turn = field(default_factory=Turn)
    own: OwnPool = field(init=False)
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.own = OwnPool(self.engine)
        self.name = self.engine.url.render_as_string(hide_password=True)

    def came_up(self, fresh_as_of: float | None) -> None:
        """Note that it answered, and how fresh it is if that is known."""
        if self.reason is not None:
            logger.info("the replica %s is used", self.name)
        self.reason = None
        self.pause_seconds = _FIRST_PAUSE_SECONDS
        self.left_alone_until = -math.inf
        if fresh_as_of is not None:
            # Answers may come in another order than the questions were asked.
            self.fresh_as_of = max(self.fresh_as_of, fresh_as_of)

    def went_down(self, reason: str) -> None:
        """Leave it alone for a while, and longer each time."""
        if reason != self.reason:
            logger.warning("the replica %s is not used: %s", self.name, reason)
        self.reason = reason
        self.left_alone_until = time.monotonic() + self.pause_seconds
        self.pause_seconds = min(_LONGEST_PAUSE_SECONDS, 2 * self.pause_seconds)

    def is_fit(self, now: float, oldest: float) -> bool:
        """Tell whether it is up, answers in time, and has what was committed by then."""
        since = self.check.since
        is_slow = since is not None and _SLOW_SECONDS < now - since < _LOST_SECONDS
        return self.reason is None and self.fresh_as_of > oldest and not is_slow

    def has_room(self) -> bool:
        """Tell whether it has a connection to give, without waiting for one to come back."""
        pool: Any = self.engine.pool
        # Pools without a limit have no such attribute.
        most = getattr(pool, "_max_overflow", -1)
        return most < 0 or bool(pool.checkedin()) or pool.overflow() < most

    def status(self, max_lag_seconds: float) -> ReplicaStatus:
        """Return what people read."""
        lag = time.monotonic() - self.fresh_as_of
        reason = self.reason
        if reason is None and lag > max_lag_seconds:
            reason = f"it lags more than {max_lag_seconds:g} s"
        return ReplicaStatus(self.name, reason is None, lag, reason)


class Replicas:
    """The replicas of one manager: the route of its reading sessions."""

    def __init__(
        self,
        primary: Engine,
        engines: Sequence[Engine],
        current: Current,
        max_lag_seconds: float,
        launch: Launch,
    ) -> None:
        self.engines = list(engines)
        self._primary = primary
        self._current = current
        self._max_lag_seconds = max_lag_seconds
        self._launch = launch
        self._turns = itertools.count()
        self._disposals = 0
        self._admitted: dict[str, float] = {}
        self.start_anew()

    def start_anew(self) -> None:
        """Forget what is known, in a forked child."""
        self._replicas = [Replica(engine) for engine in self.engines]
        self._own = OwnPool(self._primary)
        self._check = Turn()
        self._checked_at = -math.inf
        self._complaint: str | None = None

    def wrote(self) -> None:
        """Have the readers of this thread or task see what was committed until now."""
        self._current.last_write.set(time.monotonic())

    def admit(self, schema: str) -> None:
        """Note that the primary has the schema: a replica may get it later."""
        self._admitted.setdefault(schema, time.monotonic())

    def connect(self, schema: str | None) -> PoolProxiedConnection | None:
        """Return a connection to the next replica that is fit, None for the primary.

        If all of these have as many connections as they may, it waits in turn for one.
        """
        now = time.monotonic()
        if now - self._checked_at > CHECK_SECONDS:
            disposals = self._disposals
            self._start(self._check, partial(self._renew, disposals), disposals)
        oldest = max(
            now - self._max_lag_seconds,
            self._current.last_write.get(),
            self._admitted.get(schema or "", -math.inf),
        )
        fit = [replica for replica in self._in_turn() if replica.is_fit(now, oldest)]
        for replica in sorted(fit, key=Replica.has_room, reverse=True):
            try:
                return replica.engine.raw_connection()
            except SQLAlchemyTimeoutError:
                raise
            except Exception as exc:  # each driver has errors of its own, and the system too
                replica.went_down(_reason(exc))
        return None

    def check(self) -> list[ReplicaStatus]:
        """Ask all servers now, those too that are left alone after a failure."""
        log_end = self._ask_primary()
        if log_end is not None:
            for replica in self._replicas:
                self._ask(replica, log_end)
        return [replica.status(self._max_lag_seconds) for replica in self._replicas]

    def dispose(self) -> None:
        """Close the connections that nobody has; checks under way do so at their end."""
        self._disposals += 1
        for replica in self._replicas:
            replica.engine.dispose()
        self._dispose_own()

    def _in_turn(self) -> Iterator[Replica]:
        turn = next(self._turns)
        for number in range(len(self._replicas)):
            yield self._replicas[(turn + number) % len(self._replicas)]

    def _start(self, turn: Turn, work: Callable[[], Any], disposals: int) -> None:
        """Do in the background what nobody does already, unless all was disposed since."""
        if not turn.take():
            return
        try:
            self._launch(partial(self._run, turn, work, disposals))
        except RuntimeError as exc:
            turn.give_back()
            logger.warning("the replicas can't be checked: %s", exc)

    def _run(self, turn: Turn, work: Callable[[], Any], disposals: int) -> None:
        """Do the work, and leave its errors to the log."""
        try:
            if disposals == self._disposals:
                work()
        except Exception:
            logger.exception("the check of the replicas failed")
        finally:
            turn.give_back()
            if disposals != self._disposals:
                self._dispose_own()

    def _dispose_own(self) -> None:
        for own in (self._own, *(replica.own for replica in self._replicas)):
            own.dispose()

    def _renew(self, disposals: int) -> None:
        log_end = self._ask_primary()
        if log_end is not None:
            for replica in self._replicas:
                if replica.left_alone_until <= log_end.asked_at:
                    self._start(replica.check, partial(self._ask, replica, log_end), disposals)

    def _ask_primary(self) -> LogEnd | None:
        asked_at = time.monotonic()
        try:
            inserted, flushed, delay, _mended, *identity = _answer(self._own.engine, _sql.LOG_END)
        except Exception as exc:  # see `connect`
            # The replicas go on as long as they are fresh enough for what they were.
            complaint = _reason(exc)
            if complaint != self._complaint:
                logger.warning("the primary does not answer: %s", complaint)
            self._complaint = complaint
            return None
        finally:
            self._checked_at = time.monotonic()
        self._complaint = None
        return LogEnd(asked_at, inserted, flushed, delay, tuple(identity))

    def _ask(self, replica: Replica, log_end: LogEnd) -> None:
        try:
            row = _answer(
                replica.own.engine,
                _sql.REPLAYED,
                inserted=log_end.inserted,
                flushed=log_end.flushed,
            )
        except Exception as exc:  # see `connect`
            replica.went_down(_reason(exc))
            return
        is_standby, has_inserted, has_flushed, *identity = row
        if tuple(identity) != log_end.identity:
            replica.went_down("it is no copy of the primary's database")
        elif not is_standby:
            replica.went_down("it is no standby any more")
        else:
            replica.came_up(log_end.fresh_as_of(has_inserted, has_flushed))


def in_thread(work: Callable[[], Any]) -> None:
    """Run the work in a thread that nobody waits for."""
    threading.Thread(target=work, name="onegov_orm replicas", daemon=True).start()


def _answer(engine: Engine, question: str, **parameters: Any) -> Any:
    """Ask a server for a row, and hang up if that takes too long."""
    with engine.connect() as connection, _limited(connection):
        return connection.execute(text(question), parameters).one()


@contextmanager
def _limited(connection: Connection) -> Iterator[None]:
    """Hang up at the end of the time, from outside: the driver is waiting then.

    A second handle on the socket is used, which can't become another connection's.
    """
    number = driver_connection(connection.connection.dbapi_connection).fileno()
    with socket.socket(fileno=os.dup(number)) as handle:
        is_over = threading.Event()
        timer = threading.Timer(ANSWER_SECONDS, _hang_up, [handle, is_over])
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception as exc:
            if is_over.is_set():
                raise TimeoutError(f"no answer within {ANSWER_SECONDS:g} s") from exc
            raise
        finally:
            timer.cancel()


def _hang_up(handle: socket.socket, is_over: threading.Event) -> None:
    is_over.set()
    with suppress(OSError):
        handle.shutdown(socket.SHUT_RDWR)


def _reason(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).strip().partition("\n")[0] or type(original).__name__
