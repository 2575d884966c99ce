"""Where in the program something happens: the lines that are told, and those that are not."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

from sqlalchemy.util import greenlet_spawn

from onegov_orm._places import place
from onegov_orm._tasks import uninterrupted

HERE = "test_places.py"


def ask() -> str | None:
    return place()


def line_of(function: Any, offset: int = 1) -> int:
    return int(function.__code__.co_firstlineno) + offset


def test_the_innermost_line_comes_first():
    found = ask()
    assert found is not None
    first, second, *_ = found.split(", from ")
    assert first == f"{HERE}:{line_of(ask)} in ask"
    this = line_of(test_the_innermost_line_comes_first)
    assert second == f"{HERE}:{this} in test_the_innermost_line_comes_first"


def test_no_more_lines_than_can_be_read():
    def deeper(depth: int) -> str | None:
        return deeper(depth - 1) if depth else ask()

    found = deeper(10)
    assert found is not None
    assert len(found.split(", from ")) == 3


def test_libraries_are_not_the_program():
    found = functools.reduce(lambda _, __: ask(), [1, 2])
    assert found is not None
    assert "functools" not in found


def test_code_without_a_file_is_left_out():
    found = eval("ask()")
    assert found is not None
    assert "<string>" not in found


def test_the_start_of_a_thread_is_not_the_program():
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(ask()))
    thread.start()
    thread.join()
    started = line_of(test_the_start_of_a_thread_is_not_the_program, 2)
    assert found == [f"{HERE}:{line_of(ask)} in ask, from {HERE}:{started} in <lambda>"]


async def view() -> str | None:
    return ask()


def test_the_start_of_a_loop_is_not_the_program():
    found = asyncio.run(view())
    assert found == f"{HERE}:{line_of(ask)} in ask, from {HERE}:{line_of(view)} in view"


async def commit() -> str | None:
    return await uninterrupted(view())


def test_a_task_that_stands_in_for_another_knows_its_lines():
    found = asyncio.run(commit())
    assert found is not None
    assert found.endswith(f", from {HERE}:{line_of(commit)} in commit")


def test_a_place_in_a_greenlet_is_where_it_was_started():
    async def handler() -> str | None:
        return await greenlet_spawn(ask)

    found = asyncio.run(handler())
    assert found is not None
    assert f"{HERE}:{line_of(ask)} in ask, from {HERE}" in found
    assert found.endswith("in handler")
