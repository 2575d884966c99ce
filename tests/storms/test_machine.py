"""A state machine of Hypothesis's, which makes a failure as short as can be.

Two workers in one thread, each with customers of its own, take turns in the midst of their
transactions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.storms.customers import CUSTOMERS, Execute, Watch
from tests.storms.operations import OPERATIONS, operation_named
from tests.storms.storm import STEPS, Storm, Weather, Worker

#: The cursors of a connection that was killed can't be closed.
pytestmark = [
    pytest.mark.storm,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    # What SQLAlchemy says when the connection of a savepoint was killed.
    pytest.mark.filterwarnings("ignore:nested transaction already deassociated"),
]

WEATHER = Weather("two at once", "plain", pool_size=8, max_overflow=8, kills=True)
STEPS_OF_EXAMPLE = 40

workers = st.sampled_from((0, 1))


def machine_of(storm: Storm) -> type[RuleBasedStateMachine]:
    """Return a machine that works on the storm's manager."""
    operations = [found.name for found in OPERATIONS if found.is_possible(storm)]
    for random_victim in ("kill_some_backend", "kill_idle_backend"):
        operations.remove(random_victim)

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            halves = CUSTOMERS[:3], CUSTOMERS[3:]
            self.workers = [Worker(storm, number, halves[number]) for number in (0, 1)]
            self.steps = 0

        @rule(worker=workers, customer=st.integers(0, 2))
        def visit(self, worker: int, customer: int) -> None:
            self.workers[worker].schema = self.workers[worker].customers[customer]

        @rule(worker=workers, name=st.sampled_from(operations), choices=st.integers(0, 1000))
        def operate(self, worker: int, name: str, choices: int) -> None:
            self.workers[worker].random.seed(choices)
            self.workers[worker].step(operation_named(name))
            self.steps += 1

        @invariant()
        @precondition(lambda self: self.steps % 20 == 19)
        def no_row_is_foreign(self) -> None:
            storm.look()

        def teardown(self) -> None:
            for worker in self.workers:
                worker.recover()
            storm.look()

    return Machine


def test_machine_finds_no_foreign_row(dsn: str, outside: Callable[[str], Execute]) -> None:
    storm = Storm(WEATHER, dsn, Watch(outside(dsn)), 0, OPERATIONS)
    profile: Any = settings(
        max_examples=max(1, STEPS // (4 * STEPS_OF_EXAMPLE)),
        stateful_step_count=STEPS_OF_EXAMPLE,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        storm.begin()
        run_state_machine_as_test(machine_of(storm), settings=profile)
    finally:
        storm.close()
    assert storm.log.steps > 0
    print(f"{storm.log.steps} steps")
