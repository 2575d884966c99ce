"""Threads that read and write cached values of several customers in random order.

Every name begins with its customer's. When all threads pause, what is kept has to be what the
database holds.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from onegov_orm.fleet import Fleet
from tests.toolbox.caching import App, User

THREADS = 4


class Astray(AssertionError):
    """A value is another customer's, or is not what the database holds."""


class CacheStorm:
    """One application, some customers, and what threads do with them."""

    def __init__(self, app: App, schemas: list[str], seed: int) -> None:
        self.app = app
        self.schemas = schemas
        self.seed = seed
        self.steps = 0
        #: Who has which schema; customers swap their names.
        self.owners = {schema: schema for schema in schemas}
        #: What was committed, by schema, as soon as the commit has returned.
        self.committed: dict[str, frozenset[str]] = dict.fromkeys(schemas, frozenset())
        self._lock = threading.Lock()

    def run(self, rounds: int, steps: int) -> None:
        """Run; raises `Astray`."""
        with ThreadPoolExecutor(THREADS) as pool:
            for number in range(rounds):
                barrier = threading.Barrier(THREADS)
                seeds = [self.seed * 1000 + number * THREADS + each for each in range(THREADS)]
                futures = [pool.submit(self._work, seed, steps, barrier) for seed in seeds]
                for future in futures:
                    future.result()
                self._compare()
                if number % 4 == 3:
                    self._swap(random.Random(number))
                    self._compare()

    def _work(self, seed: int, steps: int, barrier: threading.Barrier) -> None:
        chance = random.Random(seed)
        barrier.wait()
        for number in range(steps):
            schema = chance.choice(self.schemas)
            action = chance.choice(ACTIONS)
            name = f"{self.owners[schema]}:{seed}-{number}"
            step = Step(self, schema, name, self.committed[schema])
            try:
                with self.app.mgr.schema(schema) as session:
                    action(step, session)
            except (DBAPIError, Undone):
                continue
            with self._lock:
                self.committed[schema] |= step.written
                self.steps += 1

    def _compare(self) -> None:
        """Compare what is kept with what is there, twice: what is made now is kept."""
        for schema in self.schemas * 2:
            with self.app.mgr.schema(schema) as session:
                kept = sorted(self.app.names)
                there = sorted(session.scalars(select(User.name)))
                if kept != there:
                    raise Astray(f"{schema} reads {kept} instead of {there}")

    def _swap(self, chance: random.Random) -> None:
        """Give two customers each other's name."""
        one, other = chance.sample(self.schemas, 2)
        fleet = Fleet(self.app.mgr)
        fleet.rename(one, f"{one}-away")
        fleet.rename(other, one)
        fleet.rename(f"{one}-away", other)
        for facts in (self.owners, self.committed):
            facts[one], facts[other] = facts[other], facts[one]  # type: ignore[index]


class Step:
    """What one thread does in one block."""

    def __init__(
        self, storm: CacheStorm, schema: str, name: str, committed: frozenset[str]
    ) -> None:
        self.app = storm.app
        self.owner = storm.owners[schema]
        self.name = name
        #: What has to be read, for it was committed before the block began.
        self.committed = committed
        self.written: frozenset[str] = frozenset()

    def names(self) -> Sequence[str]:
        """Read what is cached; raises `Astray` for a foreign name or a missing one."""
        names = self.app.names
        if not all(name.startswith(f"{self.owner}:") for name in names):
            raise Astray(f"{self.owner} read {names}")
        missing = (self.committed | self.written).difference(names)
        if missing:
            raise Astray(f"{self.owner} does not read {missing}")
        return names

    def read(self, session: Session) -> None:
        """Read a value, which stays the same within the block."""
        first = self.names()
        session.execute(text("SELECT 1"))
        if self.names() is not first:
            raise Astray("a value changed within a block")

    def read_late(self, session: Session) -> None:
        """Read from a transaction that began long before."""
        session.scalars(select(User.name)).all()
        threading.Event().wait(0.003)
        self.names()

    def write(self, session: Session) -> None:
        """Write, and sometimes read what was written."""
        session.add(User(name=self.name))
        self.written = frozenset([self.name])
        if self.name[-1] in "02468":
            self.names()

    def write_in_bulk(self, session: Session) -> None:
        """Write behind the back of the unit of work, after a look."""
        self.names()
        for name in (self.name, f"{self.name}-again"):
            session.execute(insert(User), [{"name": name}])
            self.written |= {name}
            self.names()

    def roll_back_savepoint(self, session: Session) -> None:
        """Read what was written, and no more when it is undone."""
        savepoint = session.begin_nested()
        session.add(User(name=self.name))
        self.names()
        savepoint.rollback()
        if self.name in self.names():
            raise Astray("a transaction reads what it rolled back")

    def abort(self, session: Session) -> None:
        """Read what was written, and undo it."""
        session.add(User(name=self.name))
        self.names()
        raise Undone


class Undone(Exception):
    """The block is to be aborted."""


Action = Callable[[Step, Session], None]

ACTIONS: list[Action] = [
    Step.read,
    Step.read_late,
    Step.write,
    Step.write_in_bulk,
    Step.roll_back_savepoint,
    Step.abort,
]
