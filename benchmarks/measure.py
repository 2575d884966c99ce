"""Time contestants side by side, and say how sure the comparison is.

A machine has moods: it is slower for a second, then fast again. So contestants take turns in
small batches, each round in another order, and a ratio is taken within its round. What is
reported is the median of these ratios, with the quartiles as its spread.
"""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time

#: Runs one batch, and returns nothing; what it needs was prepared before.
Batch = Callable[[], None]

#: Prepares the next batch, so that the preparation is not timed.
Preparer = Callable[[], Batch]


@dataclass(frozen=True)
class Summary:
    """The middle of some values, and between what half of them lie."""

    median: float
    lower: float
    upper: float
    count: int

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.lower:.2f}, {self.upper:.2f}]"


@dataclass(frozen=True)
class Timing:
    """Seconds by the clock, and those that this process was at work; one each for a round."""

    elapsed: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def summarize(values: Sequence[float]) -> Summary:
    """Return median and quartiles; raises ``ValueError`` for no values."""
    if not values:
        raise ValueError("there is nothing to summarize")
    if len(values) == 1:
        return Summary(values[0], values[0], values[0], 1)
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(median, lower, upper, len(values))


def percentile(values: Sequence[float], percent: int) -> float:
    """Return what this share of the values does not exceed, between two of them if need be."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def ratios(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return the ratio of each round; raises ``ValueError`` if the rounds differ in number."""
    return [value / base for value, base in zip(values, reference, strict=True)]


def take_turns(
    contestants: Mapping[str, Preparer], rounds: int, *, warm_up: int = 1, seed: int = 0
) -> dict[str, Timing]:
    """Return how long the batches of each contestant took.

    The warm-up rounds are run like the others and not reported.
    """
    order = list(contestants)
    shuffle = random.Random(seed).shuffle
    timings = {name: Timing() for name in contestants}
    for number in range(warm_up + rounds):
        shuffle(order)
        for name in order:
            timing = timings[name] if number >= warm_up else Timing()
            _run(contestants[name](), timing)
    return timings


def _run(batch: Batch, timing: Timing) -> None:
    with no_collection():
        processor, start = process_time(), perf_counter()
        batch()
        timing.elapsed.append(perf_counter() - start)
        timing.processor.append(process_time() - processor)


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect the garbage now, and not inside the block."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
