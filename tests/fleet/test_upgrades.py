"""Upgrade tasks run in the schemas of a fleet, and are recorded there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.orm import Session

from onegov_orm import SessionManager
from onegov_orm.errors import ConfigurationError, SchemaNotFound
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.runner import Outcome, Report, Result, RunOptions
from onegov_orm.upgrade import Upgrades, UpgradeState
from tests.fleet.upgrading import module_of, task
from tests.models import Base, Document

TWO = ("towns-bern", "towns-biel")


class Town:
    """A manager with schemas that have seen no task."""

    def __init__(self, mgr: SessionManager, schemas: tuple[str, ...] = TWO) -> None:
        self.mgr = mgr
        self.schemas = schemas
        for schema in schemas:
            with mgr.schema(schema) as session:
                session.add(Document(owner=schema))

    def upgrades(self, *modules: ModuleType) -> Upgrades:
        return Upgrades(FleetContext(self.mgr), modules)

    def titles(self, schema: str) -> list[str | None]:
        with self.mgr.schema(schema) as session:
            return list(session.scalars(select(Document.title).order_by(Document.id)))


@pytest.fixture
def town(common_dsn: str, new_manager: Callable[..., SessionManager]) -> Town:
    return Town(new_manager(common_dsn, Base, upgrades=[]))


@pytest.fixture
def any_town(dsn: str, new_manager: Callable[..., SessionManager]) -> Town:
    """The same with each driver on each server."""
    return Town(new_manager(dsn, Base, upgrades=[]))


def set_title(context: Any, title: str = "new") -> None:
    for document in context.session.scalars(select(Document)):
        assert document.owner == context.schema
        document.title = title


def outcomes(report: Report) -> dict[str, Outcome]:
    return {result.schema: result.outcome for result in report.results}


def states(mgr: SessionManager, schema: str) -> dict[str, dict[str, str]]:
    with mgr.schema(schema) as session:
        return {each.module: each.executed_tasks for each in session.scalars(select(UpgradeState))}


def sent_by(mgr: SessionManager) -> list[str]:
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *args: Any) -> None:
        statements.append(statement)

    event.listen(mgr.engine, "before_cursor_execute", note)
    return statements


# -- one run


def test_what_is_pending_runs_once_in_each_schema(any_town: Town) -> None:
    calls: list[str] = []
    module = module_of(
        "towns.upgrade",
        task("Set the title", requires="Count", does=set_title),
        task("Count", does=lambda context: calls.append(context.schema)),
    )
    upgrades = any_town.upgrades(module)
    assert [len(each.pending) for each in upgrades.status()] == [2, 2]
    report = upgrades.upgrade()
    assert outcomes(report) == dict.fromkeys(TWO, Outcome.DONE), report
    assert report.results[0].detail == "towns.upgrade:Count, towns.upgrade:Set the title"
    assert all(each.is_current for each in upgrades.status())
    again = upgrades.upgrade()
    assert outcomes(again) == dict.fromkeys(TWO, Outcome.SKIPPED)
    assert sorted(calls) == list(TWO)
    assert any_town.titles(TWO[0]) == ["new"]


def test_each_task_is_recorded_with_its_moment(town: Town) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    town.upgrades(module_of("a", task("1"), task("2")), module_of("b", task("1"))).upgrade()
    with town.mgr.schema(TWO[0]) as session:
        first = session.get(UpgradeState, "a")
        assert first is not None
        assert set(first.executed_tasks) == {"1", "2"}
        moment = first.executed("1")
        assert moment is not None
        assert before < moment < datetime.now(UTC) + timedelta(seconds=1)
        assert first.executed("3") is None
        assert session.get(UpgradeState, "b") is not None


def test_a_later_task_joins_those_of_its_module(town: Town) -> None:
    town.upgrades(module_of("a", task("1"))).upgrade()
    grown = town.upgrades(module_of("a", task("1"), task("2")))
    assert [each.key for each in grown.status()[0].pending] == ["a:2"]
    assert grown.upgrade().results[0].detail == "a:2"
    assert set(states(town.mgr, TWO[0])["a"]) == {"1", "2"}


def test_only_the_schemas_asked_for_are_upgraded(town: Town) -> None:
    upgrades = town.upgrades(module_of("a", task("1")))
    assert outcomes(upgrades.upgrade(schemas=[TWO[1]])) == {TWO[1]: Outcome.DONE}
    assert [each.schema for each in upgrades.status() if each.pending] == [TWO[0]]
    with pytest.raises(SchemaNotFound):
        upgrades.status(["towns-nowhere"])


def test_nothing_is_sent_to_schemas_with_nothing_pending(town: Town) -> None:
    upgrades = town.upgrades(module_of("a", task("1"), task("2")))
    upgrades.upgrade()
    sent = sent_by(town.mgr)
    seen: list[tuple[Result, int, int]] = []
    report = upgrades.upgrade(on_result=lambda *arguments: seen.append(arguments))
    # One question for the customers, and one for all their states, which is not compiled.
    assert len(sent) == 3
    assert "jit" in sent[1]
    assert report.is_ok
    assert [(number, total) for _result, number, total in seen] == [(1, 2), (2, 2)]


def test_progress_counts_skipped_schemas_too(town: Town) -> None:
    upgrades = town.upgrades(module_of("a", task("1")))
    upgrades.upgrade(schemas=[TWO[0]])
    seen: list[tuple[str, int, int]] = []
    upgrades.upgrade(on_result=lambda result, *numbers: seen.append((result.schema, *numbers)))
    assert seen == [(TWO[0], 1, 2), (TWO[1], 2, 2)]


def test_without_tasks_there_is_nothing_to_do(town: Town) -> None:
    upgrades = town.upgrades()
    assert all(each.is_current for each in upgrades.status())
    assert outcomes(upgrades.upgrade()) == dict.fromkeys(TWO, Outcome.SKIPPED)


def test_values_can_be_shown_as_json(town: Town) -> None:
    upgrades = town.upgrades(module_of("a", task("1"), task("2", "1", always_run=True)))
    assert upgrades.status([TWO[0]])[0].as_dict() == {"schema": TWO[0], "pending": ["a:1"]}
    assert upgrades.tasks[1].as_dict() == {
        "task": "a:2",
        "always_run": True,
        "requires": ["a:1"],
        "raw": False,
    }


# -- kinds of tasks


def test_tasks_that_always_run_are_not_recorded(town: Town) -> None:
    calls: list[str] = []
    module = module_of(
        "a", task("1"), task("2", always_run=True, does=lambda each: calls.append(each.schema))
    )
    upgrades = town.upgrades(module)
    upgrades.upgrade()
    assert all(each.is_current for each in upgrades.status())
    assert outcomes(upgrades.upgrade()) == dict.fromkeys(TWO, Outcome.DONE)
    assert len(calls) == 4
    assert set(states(town.mgr, TWO[0])["a"]) == {"1"}


def test_a_task_that_returns_false_had_nothing_to_do_and_counts_as_executed(town: Town) -> None:
    upgrades = town.upgrades(module_of("a", task("1", does=lambda context: False), task("2")))
    assert upgrades.upgrade().results[0].detail == "a:1 (nothing to do), a:2"
    assert all(each.is_current for each in upgrades.status())


def test_many_tasks_are_counted(town: Town) -> None:
    idle = [task(f"idle {number}", does=lambda context: False) for number in range(3)]
    upgrades = town.upgrades(module_of("a", *idle, *(task(str(n)) for n in range(4))))
    assert upgrades.upgrade().results[0].detail == "7 tasks, 3 of them had nothing to do"


def test_a_generator_is_flushed_after_each_part(town: Town) -> None:
    counts: list[int] = []

    def add(context: Any) -> Iterator[bool]:
        for number in range(2):
            context.session.add(Document(owner=context.schema, title=str(number)))
            yield True
            count = context.connection.scalar(text("SELECT count(*) FROM documents"))
            counts.append(count)

    town.upgrades(module_of("a", task("1", does=add))).upgrade(schemas=[TWO[0]])
    assert counts == [2, 3]
    assert town.titles(TWO[0]) == [None, "0", "1"]


def parts(*values: Any) -> Callable[[Any], Iterator[Any]]:
    def generate(context: Any) -> Iterator[Any]:
        yield from values

    return generate


@pytest.mark.parametrize(
    ("values", "did"),
    [((), False), ((False, False), False), ((False, True), True), ((None,), True)],
)
def test_the_parts_of_a_generator_tell_whether_it_did_something(
    town: Town, values: tuple[Any, ...], did: bool
) -> None:
    upgrades = town.upgrades(module_of("a", task("1", does=parts(*values))))
    detail = upgrades.upgrade(schemas=[TWO[0]]).results[0].detail
    assert detail == ("a:1" if did else "a:1 (nothing to do)")


def test_a_failing_generator_leaves_nothing(town: Town) -> None:
    def fail(context: Any) -> Iterator[bool]:
        set_title(context)
        yield True
        raise RuntimeError("the second part")

    upgrades = town.upgrades(module_of("a", task("1", does=fail)))
    (result,) = upgrades.upgrade(schemas=[TWO[0]]).results
    assert result.outcome is Outcome.FAILED
    assert town.titles(TWO[0]) == [None]


def test_raw_tasks_get_the_connection_and_the_schema(any_town: Town) -> None:
    calls: list[Any] = []

    def raw(connection: Any, schemas: list[str]) -> Iterator[bool]:
        (schema,) = schemas
        connection.execute(text(f'ALTER TABLE "{schema}".documents ADD COLUMN size integer'))
        calls.append((schema, connection.scalar(text("SELECT current_schema()"))))
        yield True

    def count(context: Any) -> None:
        assert context.has_column("documents", "size")

    module = module_of("a", task("Count", does=count), task("Raw", raw=True, does=raw))
    report = any_town.upgrades(module).upgrade()
    assert outcomes(report) == dict.fromkeys(TWO, Outcome.DONE), report
    assert sorted(calls) == [(schema, schema) for schema in TWO]


# -- one task


def test_one_task_runs_with_what_it_requires(town: Town) -> None:
    module = module_of("a", task("1"), task("2", "1"), task("3", "2"), task("4"))
    upgrades = town.upgrades(module)
    assert upgrades.upgrade(task="a:2").results[0].detail == "a:1, a:2"
    assert upgrades.upgrade(task="3").results[0].detail == "a:3"
    assert outcomes(upgrades.upgrade(task="2")) == dict.fromkeys(TWO, Outcome.SKIPPED)
    assert [each.key for each in upgrades.status()[0].pending] == ["a:4"]
    with pytest.raises(ConfigurationError, match="no upgrade task"):
        upgrades.upgrade(task="nothing like it")


def test_a_task_that_always_runs_is_left_out_if_another_is_asked_for(town: Town) -> None:
    calls: list[str] = []
    module = module_of(
        "a", task("1"), task("2", always_run=True, does=lambda each: calls.append(each.schema))
    )
    upgrades = town.upgrades(module)
    upgrades.upgrade(task="1")
    assert not calls
    upgrades.upgrade(task="2")
    upgrades.upgrade(task="2")
    assert len(calls) == 4


# -- dry run


def test_a_dry_run_does_all_and_undoes_it(any_town: Town) -> None:
    module = module_of(
        "a",
        task("1", does=set_title),
        task("2", does=lambda context: context.connection.execute(text("DROP TABLE pages"))),
    )
    upgrades = any_town.upgrades(module)
    report = upgrades.upgrade(dry_run=True)
    assert report.is_ok, report
    assert report.results[0].detail == "dry run, undone: a:1, a:2"
    assert any_town.titles(TWO[0]) == [None]
    assert all(len(each.pending) == 2 for each in upgrades.status())
    with FleetContext(any_town.mgr).connected(TWO[0]) as connection, connection.begin():
        assert connection.scalar(text("SELECT to_regclass('pages')::text")) == "pages"
        assert connection.scalar(text("SELECT to_regclass('upgrades')")) is None


def test_a_dry_run_finds_the_failing_task(town: Town) -> None:
    module = module_of("a", task("1", does=lambda context: 1 / 0))
    report = town.upgrades(module).upgrade(dry_run=True)
    assert all("ZeroDivisionError" in result.error for result in report.results)


# -- failures


def test_a_failing_task_leaves_one_schema_of_twenty_as_it_was(
    common_dsn: str, new_manager: Callable[..., SessionManager]
) -> None:
    names = tuple(f"towns-{number:02}" for number in range(20))
    town = Town(new_manager(common_dsn, Base, upgrades=[]), names)
    failing = names[7]
    is_broken = threading.Event()
    is_broken.set()

    def count(context: Any) -> None:
        if context.schema == failing and is_broken.is_set():
            context.connection.execute(text("SELECT * FROM no_such_table"))

    module = module_of("a", task("Title", does=set_title), task("Count", does=count))
    upgrades = town.upgrades(module)
    report = upgrades.upgrade()
    (failed,) = report.of(Outcome.FAILED)
    assert failed.schema == failing
    assert failed.error.startswith('UpgradeFailed: the upgrade task "a:Count" failed: Undefined')
    assert len(report.of(Outcome.DONE)) == 19
    assert town.titles(failing) == [None]
    assert [len(each.pending) for each in upgrades.status([failing])] == [2]
    with FleetContext(town.mgr).connected(failing) as connection, connection.begin():
        assert connection.scalar(text("SELECT to_regclass('upgrades')")) is None

    is_broken.clear()
    report = upgrades.upgrade()
    assert [result.schema for result in report.of(Outcome.DONE)] == [failing]
    assert all(town.titles(name) == ["new"] for name in names)


def test_what_is_checked_at_the_commit_names_its_task(town: Town) -> None:
    def defer(context: Any) -> None:
        context.connection.execute(
            text(
                "ALTER TABLE pages ADD CONSTRAINT late FOREIGN KEY (document_id)"
                " REFERENCES documents DEFERRABLE INITIALLY DEFERRED"
            )
        )

    def refer_to_nothing(context: Any) -> None:
        context.connection.execute(
            text("ALTER TABLE pages DROP CONSTRAINT pages_document_id_fkey")
        )
        context.connection.execute(text("INSERT INTO pages (document_id, text) VALUES (99, '')"))

    module = module_of("a", task("1", does=defer), task("2", does=refer_to_nothing), task("3"))
    (result,) = town.upgrades(module).upgrade(schemas=[TWO[0]]).results
    assert '"a:2" failed: ForeignKeyViolation' in result.error


def test_a_table_that_waited_for_its_checks_can_be_altered_by_the_next_task(town: Town) -> None:
    def defer(context: Any) -> None:
        context.connection.execute(
            text(
                "ALTER TABLE pages ADD CONSTRAINT late FOREIGN KEY (document_id)"
                " REFERENCES documents DEFERRABLE INITIALLY DEFERRED"
            )
        )

    def insert_page_first(context: Any) -> None:
        execute = context.connection.execute
        execute(text("ALTER TABLE pages DROP CONSTRAINT pages_document_id_fkey"))
        execute(text("INSERT INTO pages (document_id, text) VALUES (99, '')"))
        execute(text("INSERT INTO documents (id, owner) VALUES (99, current_schema())"))

    def alter(context: Any) -> None:
        context.connection.execute(text("ALTER TABLE pages ALTER COLUMN text DROP NOT NULL"))

    module = module_of(
        "a", task("1", does=defer), task("2", does=insert_page_first), task("3", does=alter)
    )
    report = town.upgrades(module).upgrade()
    assert report.is_ok, report


@pytest.mark.parametrize(
    "end",
    [
        lambda context: context.connection.commit(),
        lambda context: context.connection.get_transaction().commit(),
        lambda context: context.connection.rollback(),
        lambda context: context.session.rollback(),
        lambda context: context.connection.execute(text("COMMIT")),
        lambda context: context.connection.execute(text("ROLLBACK")),
        lambda context: context.connection.execute(text("SELECT 1; COMMIT; SELECT 1")),
        lambda context: context.connection.connection.dbapi_connection.rollback(),
    ],
)
def test_a_task_that_ends_the_transaction_fails(town: Town, end: Any) -> None:
    def work(context: Any) -> None:
        set_title(context)
        context.flush()
        end(context)

    module = module_of("a", task("1", does=work), task("2"))
    upgrades = town.upgrades(module)
    (result,) = upgrades.upgrade(schemas=[TWO[0]]).results
    assert result.outcome is Outcome.FAILED, result
    assert '"a:1" failed' in result.error
    assert len(upgrades.status([TWO[0]])[0].pending) == 2
    assert town.titles(TWO[0]) == [None]


def test_the_sessions_commit_is_a_flush(town: Town) -> None:
    def work(context: Any) -> None:
        set_title(context)
        context.session.commit()
        if context.schema == TWO[0]:
            raise RuntimeError("too late")

    report = town.upgrades(module_of("a", task("1", does=work))).upgrade()
    assert outcomes(report) == {TWO[0]: Outcome.FAILED, TWO[1]: Outcome.DONE}
    assert town.titles(TWO[0]) == [None]
    assert town.titles(TWO[1]) == ["new"]


def test_a_lock_that_is_held_for_a_while_is_waited_for(town: Town) -> None:
    """The lock timeout of a task is tried again, although the error names the task."""
    upgrades = town.upgrades(module_of("a", task("1", does=set_title)))
    options = RunOptions(lock_timeout_seconds=0.2, tries=20)
    with town.mgr.engine.connect() as blocker:
        blocker.execute(text(f'LOCK TABLE "{TWO[0]}".documents IN ACCESS EXCLUSIVE MODE'))
        threading.Timer(0.5, blocker.rollback).start()
        report = upgrades.upgrade(options=options)
    assert report.is_ok, report
    assert report.results[0].tries > 1


def test_a_lock_that_is_held_for_too_long_names_the_task(town: Town) -> None:
    upgrades = town.upgrades(module_of("a", task("1", does=set_title)))
    with town.mgr.engine.connect() as blocker:
        blocker.execute(text(f'LOCK TABLE "{TWO[0]}".documents IN ACCESS EXCLUSIVE MODE'))
        report = upgrades.upgrade(options=RunOptions(lock_timeout_seconds=0.05, tries=2))
    (failed,) = report.of(Outcome.FAILED)
    assert '"a:1" failed: LockNotAvailable' in failed.error
    assert failed.tries == 2


def test_a_table_of_the_applications_own_is_left_alone_and_named(town: Town) -> None:
    with town.mgr.schema(TWO[1]) as session:
        session.execute(text("CREATE TABLE upgrades (version integer)"))
    upgrades = town.upgrades(module_of("a", task("1")))
    Town(town.mgr, ("towns-chur",))
    upgrades.upgrade(schemas=[TWO[0], "towns-chur"])
    with pytest.raises(ConfigurationError, match=f'"upgrades" of the schema "{TWO[1]}"'):
        upgrades.status()


# -- signals and marks


def test_no_change_signals_are_sent(town: Town) -> None:
    heard: list[Any] = []
    for signal in (town.mgr.on_insert, town.mgr.on_update, town.mgr.on_delete, town.mgr.on_commit):
        signal.connect(lambda schema, **data: heard.append(schema), weak=False)

    def work(context: Any) -> None:
        set_title(context)
        context.session.add(Document(owner=context.schema))

    assert town.upgrades(module_of("a", task("1", does=work))).upgrade().is_ok
    assert not heard
    with town.mgr.schema(TWO[0]) as session:
        session.add(Document(owner=TWO[0]))
    assert heard


def test_the_mark_tells_when_something_was_changed(town: Town) -> None:
    context = FleetContext(town.mgr)
    town.upgrades(module_of("a", task("1", does=lambda each: False))).upgrade()
    assert context.customer(TWO[0]).mark.migrated is None
    town.upgrades(module_of("a", task("1"), task("2"))).upgrade()
    mark = context.customer(TWO[0]).mark
    assert mark.migrated is not None
    assert mark.created is not None


def test_a_task_has_no_current_schema_besides_its_own(town: Town) -> None:
    found: list[Any] = []

    def look(context: Any) -> None:
        found.append((town.mgr.current_schema, context.session.info["schema"] == context.schema))
        assert isinstance(context.session, Session)

    assert town.upgrades(module_of("a", task("1", does=look))).upgrade().is_ok
    assert found == [(None, True)] * 2


# -- new schemas


def test_a_new_schema_has_seen_all_tasks_that_run_once(
    common_dsn: str, new_manager: Callable[..., SessionManager]
) -> None:
    module = module_of("a", task("1"), task("2", always_run=True), task("3", raw=True))
    mgr = new_manager(common_dsn, Base, upgrades=[module, module_of("b", task("1"))])
    mgr.ensure_schema_exists("towns-new")
    assert {name: set(tasks) for name, tasks in states(mgr, "towns-new").items()} == {
        "a": {"1", "3"},
        "b": {"1"},
    }
    upgrades = Upgrades(FleetContext(mgr), [module, module_of("b", task("1"))])
    assert upgrades.status()[0].is_current


def test_a_new_schema_that_fails_leaves_nothing(
    common_dsn: str,
    new_manager: Callable[..., SessionManager],
    outside: Callable[[str], Callable[[str], list[tuple[Any, ...]]]],
) -> None:
    execute = outside(common_dsn)
    mgr = new_manager(common_dsn, Base, upgrades=[module_of("a", task("1"))])
    is_broken = threading.Event()
    is_broken.set()

    @mgr.on_schema_init.connect
    def fail(schema: str, connection: Any) -> None:
        if is_broken.is_set():
            raise RuntimeError("not today")

    with pytest.raises(RuntimeError):
        mgr.ensure_schema_exists("towns-new")
    assert execute("SELECT count(*) FROM pg_class WHERE relname = 'upgrades'") == [(0,)]
    assert execute("SELECT to_regnamespace('\"towns-new\"')") == [(None,)]
    is_broken.clear()
    mgr.ensure_schema_exists("towns-new")
    assert states(mgr, "towns-new")["a"].keys() == {"1"}


def test_a_wrong_module_fails_when_the_first_schema_is_made(
    common_dsn: str, new_manager: Callable[..., SessionManager]
) -> None:
    mgr = new_manager(common_dsn, Base, upgrades=["no.such.module"])
    with pytest.raises(ConfigurationError, match=r"no\.such\.module"):
        mgr.ensure_schema_exists("towns-new")


def test_without_tasks_a_new_schema_has_no_table(
    common_dsn: str, new_manager: Callable[..., SessionManager]
) -> None:
    mgr = new_manager(common_dsn, Base, upgrades=[])
    mgr.ensure_schema_exists("towns-new")
    assert not FleetContext(mgr).customer("towns-new").has_upgrades
    # The bases of the application know nothing of it.
    assert "upgrades" not in Base.metadata.tables
