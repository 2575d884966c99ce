"""Examines the server: version, clock, settings, room for connections and locks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from onegov_orm.fleet import _sql_doctor
from onegov_orm.fleet._doctor_verdict import (
    Examination,
    Finding,
    error,
    fine,
    skipped,
    some,
    warning,
)
from onegov_orm.fleet.runner import RunOptions
from onegov_orm.provisioning import sqlstate

#: The newest server that the library's tests run on.
_NEWEST: Final = 18

#: From here on, the way to the server costs more than most statements.
_SLOW_ROUND_TRIP_MILLISECONDS: Final = 5.0
_ROUND_TRIPS: Final = 5
_MAX_CLOCK_SECONDS: Final = 5.0

#: So many schemas are dropped or migrated side by side, at the least.
_SIDE_BY_SIDE: Final = RunOptions().workers

#: ``feature_not_supported``: a hot standby has no serializable transactions.
_NOT_SUPPORTED: Final = "0A000"
_IS_STANDBY: Final = "the server is a standby, which only reads"
_NAME_THE_PRIMARY: Final = "Let the dsn name the primary, and standbys be replicas=[...]."

_DAY_MILLISECONDS: Final = 24 * 3600 * 1000


def connection(examination: Examination) -> Iterator[Finding]:
    """Connect, and measure how long that and a round trip take."""
    try:
        opened, round_trip = _measure(examination)
    except DBAPIError as exc:
        # The first transaction is of the manager's isolation level.
        if sqlstate(exc) != _NOT_SUPPORTED:
            raise
        yield error(_IS_STANDBY, _NAME_THE_PRIMARY)
        return
    message = f"connected in {opened:.0f} ms, a round trip takes {round_trip:.1f} ms"
    if round_trip > _SLOW_ROUND_TRIP_MILLISECONDS:
        yield warning(message, "Run the application near its database: each statement waits.")
    else:
        yield fine(message)


def _measure(examination: Examination) -> tuple[float, float]:
    """Return the milliseconds that it takes to connect, and to ask something."""
    started = time.perf_counter()
    with examination.undone() as connected:
        connected.execute(text(_sql_doctor.ONE))
        opened = (time.perf_counter() - started) * 1000
        times = []
        for _ in range(_ROUND_TRIPS):
            started = time.perf_counter()
            connected.execute(text(_sql_doctor.ONE))
            times.append((time.perf_counter() - started) * 1000)
    return opened, statistics.median(times)


def version(examination: Examination) -> Iterator[Finding]:
    """Tell whether the library knows this server."""
    number = examination.ask(_sql_doctor.SERVER)[0][0]
    message = f"PostgreSQL {number // 10_000}.{number % 10_000}"
    if number // 10_000 > _NEWEST:
        advice = f"Look for a newer onegov_orm: this one was tested up to PostgreSQL {_NEWEST}."
        yield warning(message, advice)
    else:
        yield fine(message)


def primary(examination: Examination) -> Iterator[Finding]:
    """Tell whether the server can be written to."""
    _, is_standby, can_write, _ = examination.ask(_sql_doctor.SERVER)[0]
    if is_standby:
        yield error(_IS_STANDBY, _NAME_THE_PRIMARY)
    elif not can_write:
        yield error(
            "transactions are read only",
            "Look for default_transaction_read_only in the settings of the role, the database, "
            "and the server.",
        )
    else:
        yield fine("the server is a primary, and takes transactions that write")


def clock(examination: Examination) -> Iterator[Finding]:
    """Compare the server's clock with ours."""
    before = time.time()
    theirs = examination.ask(_sql_doctor.SERVER)[0][3]
    ours = (before + time.time()) / 2
    apart = abs(theirs - ours)
    if apart > _MAX_CLOCK_SECONDS:
        yield warning(
            f"the server's clock and this machine's are {apart:.0f} seconds apart",
            "Have both synchronised (NTP): dates in the database come from both.",
        )
    else:
        yield fine("the server's clock is right, compared with this machine's")


def timeouts(examination: Examination) -> Iterator[Finding]:
    """Look for limits that are missing, and for those that surprise long work."""
    idle = "idle_in_transaction_session_timeout"
    limits = ("statement_timeout", "transaction_timeout", "lock_timeout", "idle_session_timeout")
    found = {name: int(value) for name, value in examination.settings(idle, *limits).items()}
    is_fine = True
    if not 0 < found[idle] <= _DAY_MILLISECONDS:
        is_fine = False
        yield warning(
            f"{idle} is {_duration(found[idle])}: who forgets a transaction keeps its locks",
            f"Take {idle} out of connect_args and of the role's settings; the manager sets it.",
        )
    for name in limits:
        if found.get(name):
            is_fine = False
            yield warning(
                f"{name} is {_duration(found[name])} for this role: longer work fails",
                f"Set {name} for the roles that serve requests, not for the one that migrates.",
            )
    if is_fine:
        yield fine("forgotten transactions end, and nothing limits long work")


def connections(examination: Examination) -> Iterator[Finding]:
    """Compare the room for connections with what the pool may open."""
    names = ("max_connections", "superuser_reserved_connections", "reserved_connections")
    settings = {name: int(value) for name, value in examination.settings(*names).items()}
    role_limit, database_limit, opened = examination.ask(_sql_doctor.CONNECTIONS)[0]
    room = 2 * settings["max_connections"] - sum(settings.values())
    room = min(limit for limit in (room, role_limit, database_limit) if limit >= 0)
    wanted = _pool_limit(examination.context.engine.pool)
    if wanted is None:
        yield fine(f"there is room for {room} connections, {opened} are open; no pool of ours")
    elif wanted > room:
        yield error(
            f"the pool may open {wanted} connections, and the server has room for {room}",
            "Lower pool_size and max_overflow in pool_config, or raise max_connections.",
        )
    else:
        yield fine(
            f"there is room for {room} connections, {opened} are open: enough for "
            f"{room // wanted} processes with a pool of {wanted}"
        )


def locks(examination: Examination) -> Iterator[Finding]:
    """Compare the server's table of locks with what the fleet's work takes."""
    names = ("max_locks_per_transaction", "max_connections", "max_prepared_transactions")
    each, *clients = (int(examination.settings(*names)[name]) for name in names)
    largest, relations, schemas = examination.ask(
        _sql_doctor.LOCKS, {"schemas": examination.customers}
    )[0]
    if not schemas:
        yield skipped("there are no customers yet, whose tables could be counted")
        return
    capacity = each * sum(clients)
    wanted = _SIDE_BY_SIDE * largest
    if wanted > capacity:
        yield _too_few_locks(
            f"{_SIDE_BY_SIDE} of the largest schemas dropped at once take {wanted} locks, and the "
            f"server has room for {capacity}",
            -(-wanted // sum(clients)),
            is_error=largest > capacity,
        )
    expected = relations * max(schemas, examination.fleet_size or 0) // schemas
    if expected > capacity:
        yield _too_few_locks(
            f"pg_dump of the whole database takes {expected} locks, and the server has room for "
            f"{capacity}",
            -(-expected // sum(clients)),
        )
    if wanted <= capacity >= expected:
        yield fine(f"there is room for {capacity} locks; to drop a schema takes up to {largest}")


def catalogs(examination: Examination) -> Iterator[Finding]:
    """Look whether the system catalogs are kept in order."""
    if examination.settings("autovacuum")["autovacuum"] != "on":
        yield warning(
            "autovacuum is off: dropped schemas leave their rows in the catalogs forever",
            "Set autovacuum = on, and reload the server.",
        )
    bloated = examination.ask(_sql_doctor.BLOATED_CATALOGS)
    for name, dead, size in bloated:
        yield warning(
            f"{name} holds {dead} dead rows, in {size // 1_000_000} MB: catalogs get slow",
            f"An administrator has to run: {_sql_doctor.vacuum(name)}",
        )
    if not bloated:
        yield fine("the system catalogs are in order")


def replicas(examination: Examination) -> Iterator[Finding]:
    """Ask the replicas how they are."""
    found = examination.manager.check_replicas()
    if not found:
        yield skipped("the manager has no replicas")
        return
    for status in found:
        if not status.is_usable:
            yield error(
                f"the replica {status.name} can't be used: {status.reason}",
                "Sessions that read go to the primary until it is back.",
            )
    usable = [status.name for status in found if status.is_usable]
    if usable:
        yield fine(f"replicas that can be used: {some(usable)}")


def _too_few_locks(message: str, needed: int, is_error: bool = False) -> Finding:
    sql = _sql_doctor.alter_system("max_locks_per_transaction", needed)
    make = error if is_error else warning
    return make(message, f"An administrator has to run {sql}, and restart the server.")


def _pool_limit(pool: Any) -> int | None:
    """Return how many connections a pool may open, None if that is not for it to say."""
    size, overflow = getattr(pool, "size", None), getattr(pool, "_max_overflow", None)
    return None if size is None or overflow is None or overflow < 0 else size() + overflow


def _duration(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g} seconds" if milliseconds else "off"
