"""Work that a cancelled task brings to its end first."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextvars import ContextVar

import pytest

from onegov_orm import _tasks
from onegov_orm._tasks import current_task, uninterrupted
from onegov_orm.context import Scopes

number: ContextVar[int] = ContextVar("number", default=0)


def test_the_result_is_returned():
    async def work():
        await asyncio.sleep(0)
        return 7

    assert asyncio.run(uninterrupted(work())) == 7


def test_an_error_is_raised():
    async def work():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(uninterrupted(work()))


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_cancellation_comes_after_the_work(times):
    done = []

    async def work():
        for _ in range(10):
            await asyncio.sleep(0)
        done.append(True)

    async def main():
        task = asyncio.create_task(uninterrupted(work()))
        await asyncio.sleep(0)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        assert done == []
        await asyncio.wait([task])
        return task.cancelled()

    assert (asyncio.run(main()), done) == (True, [True])


def test_a_cancellation_tells_the_error_of_the_work():
    async def work():
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async def main():
        try:
            await uninterrupted(work())
        except asyncio.CancelledError as error:
            return type(error.__cause__)

    async def cancelling():
        task = asyncio.create_task(main())
        await asyncio.sleep(0)
        task.cancel()
        return await task

    assert asyncio.run(cancelling()) is ZeroDivisionError


def test_a_timeout_is_a_timeout():
    done = []

    async def work():
        await asyncio.sleep(0.05)
        done.append(True)

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await uninterrupted(work())
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(main())
    assert done == [True]


def test_work_that_is_cancelled_from_within():
    async def work():
        raise asyncio.CancelledError

    async def main():
        with pytest.raises(asyncio.CancelledError):
            await uninterrupted(work())

    asyncio.run(main())


def test_the_work_is_done_in_the_name_of_its_task():
    scopes = Scopes(object)

    async def work():
        assert asyncio.current_task() is not current_task()
        return current_task(), scopes.get()

    async def main():
        task, scope = await uninterrupted(work())
        assert task is asyncio.current_task()
        assert scope is scopes.get()

    asyncio.run(main())


def test_work_inside_work_is_in_the_name_of_the_same_task():
    async def inner():
        return current_task()

    async def main():
        assert await uninterrupted(uninterrupted(inner())) is asyncio.current_task()

    asyncio.run(main())


def test_a_task_that_the_work_starts_is_nobodys():
    async def child():
        return current_task()

    async def work():
        task = asyncio.create_task(child())
        return await task is task

    assert asyncio.run(uninterrupted(work()))


def test_what_the_work_sets_is_set():
    async def work():
        number.set(number.get() + 1)
        await asyncio.sleep(0)

    async def main():
        number.set(1)
        await uninterrupted(work())
        assert number.get() == 2
        task = asyncio.create_task(uninterrupted(work()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert number.get() == 2

    asyncio.run(main())


def test_what_the_work_set_is_set_after_a_cancellation():
    async def work():
        await asyncio.sleep(0)
        number.set(5)

    async def main():
        with pytest.raises(asyncio.CancelledError):
            await uninterrupted(work())
        return number.get()

    async def cancelling():
        task = asyncio.create_task(main())
        await asyncio.sleep(0)
        task.cancel()
        return await task

    assert asyncio.run(cancelling()) == 5


def test_nothing_is_remembered_of_tasks_that_are_over():
    async def work():
        await asyncio.sleep(0)

    async def main():
        for _ in range(5):
            await uninterrupted(work())

    asyncio.run(main())
    gc.collect()
    assert len(_tasks._principals) == 0


def test_no_task_outside_a_loop():
    assert current_task() is None


def test_loops_in_several_threads():
    found = []

    async def work():
        await asyncio.sleep(0)
        return current_task()

    async def main():
        task = asyncio.current_task()
        found.extend([await uninterrupted(work()) is task for _ in range(50)])

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 200
