"""The configuration: files, environment and flags, and which of them counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onegov_orm.cli._exits import Exit, Problem
from onegov_orm.cli._settings import KEYS, Settings, mask


def settings(folder: Path, environment: dict[str, str] | None = None, **flags: Any) -> Settings:
    return Settings(flags, environment or {}, folder)


@pytest.fixture
def both(tmp_path: Path) -> Path:
    (tmp_path / "setup.cfg").write_text(
        "[onegov_orm]\ndsn = postgresql://cfg/x\nworkers = 2\nbase =\n  a:A\n  b:B\n"
    )
    (tmp_path / "pyproject.toml").write_text(
        '[tool.onegov_orm]\ndsn = "postgresql://toml/x"\ntries = 5\n'
    )
    return tmp_path


def test_nothing_is_configured(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert found["dsn"] is None
    assert found["workers"] == 4
    assert found.setting("workers").source == "default"


@pytest.mark.parametrize(
    ("environment", "flags", "expected", "source"),
    [
        ({}, {}, "toml", "pyproject.toml"),
        ({"ONEGOV_ORM_DSN": "postgresql://env/x"}, {}, "env", "environment: ONEGOV_ORM_DSN"),
        (
            {"ONEGOV_ORM_DSN": "postgresql://env/x"},
            {"dsn": "postgresql://flag/x"},
            "flag",
            "flag: --dsn",
        ),
    ],
)
def test_flags_before_environment_before_files(
    both: Path, environment: dict[str, str], flags: dict[str, str], expected: str, source: str
) -> None:
    found = settings(both, environment, **flags)
    assert found["dsn"] == f"postgresql://{expected}/x"
    assert found.setting("dsn").source == source


def test_two_files_of_one_folder_add_up(both: Path) -> None:
    found = settings(both)
    assert (found["workers"], found["tries"]) == (2, 5)
    assert found["base"] == ["a:A", "b:B"]


def test_files_are_found_upwards(both: Path) -> None:
    inner = both / "src" / "app"
    inner.mkdir(parents=True)
    (inner / "pyproject.toml").write_text("[tool.other]\nname = 1\n")
    assert settings(inner)["tries"] == 5


def test_paths_of_a_file_start_where_it_lies(both: Path) -> None:
    (both / "setup.cfg").write_text("[onegov_orm]\nmigrations = db/migrations\n")
    (both / "src").mkdir()
    found = settings(both / "src")
    assert found["migrations"] == both / "db" / "migrations"
    assert settings(both / "src", migrations="here")["migrations"] == both / "src" / "here"


def test_migrations_beside_the_file_are_found(both: Path) -> None:
    (both / "migrations").mkdir()
    (both / "migrations" / "env.py").touch()
    assert settings(both)["migrations"] == both / "migrations"


def test_a_file_can_be_named(both: Path, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[tool.onegov_orm]\nworkers = 9\n")
    assert settings(tmp_path / "nowhere", config=tmp_path / "other.toml")["workers"] == 9


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("pyproject.toml", '[tool.onegov_orm]\nmanger = "a:b"\n', 'did you mean "manager"?'),
        ("setup.cfg", "[onegov_orm]\nzzz = 1\n", "The options are: manager, dsn"),
        ("pyproject.toml", "[tool.onegov_orm\n", "can't be read"),
        ("setup.cfg", "[onegov_orm]\nno value at all\n", "can't be read"),
        ("pyproject.toml", "[tool.onegov_orm]\nworkers = 0\n", "a whole number from 1 up"),
        ("pyproject.toml", "[tool.onegov_orm]\nworkers = 2.5\n", "a whole number from 1 up"),
        ("pyproject.toml", "[tool.onegov_orm]\nworkers = true\n", "a whole number from 1 up"),
        ("pyproject.toml", "[tool.onegov_orm]\nlock_timeout_seconds = inf\n", "a number above 0"),
        ("setup.cfg", "[onegov_orm]\nlock_timeout_seconds = long\n", "a number above 0"),
        ("pyproject.toml", "[tool.onegov_orm]\ndsn = 5\n", "dsn has to be a text"),
        ("pyproject.toml", "[tool.onegov_orm]\nbase = [1]\n", "a text or a list of texts"),
        ("pyproject.toml", "[tool.onegov_orm]\nbase = 1\n", "a text or a list of texts"),
        ("pyproject.toml", "[tool]\nonegov_orm = 3\n", "has to be a table"),
    ],
)
def test_mistakes_name_the_file(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Problem) as caught:
        settings(tmp_path)
    assert expected in str(caught.value)
    assert name in str(caught.value)
    assert caught.value.exit_code is Exit.USAGE


def test_a_named_file_has_to_exist(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        settings(tmp_path, config="missing.toml")
    assert caught.value.exit_code is Exit.NOT_FOUND


def test_a_named_file_needs_the_section(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text("[other]\n")
    with pytest.raises(Problem, match=r"no section \[onegov_orm\]"):
        settings(tmp_path, {"ONEGOV_ORM_CONFIG": "x.cfg"})


def test_an_environment_variable_is_checked_too(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="environment: ONEGOV_ORM_WORKERS: workers has to be"):
        settings(tmp_path, {"ONEGOV_ORM_WORKERS": "many"})


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://app:geheim@host/db",
        "postgresql://app:ge@heim@host/db",
        "postgresql://host/db?user=app&password=geheim",
        "no connection to postgresql://app:geheim@host:5432/db as it seems",
        "dbname=x password='geheim' host=y",
    ],
)
def test_passwords_are_masked(text: str) -> None:
    assert "geheim" not in mask(text)
    assert "heim" not in mask(text)
    assert "***" in mask(text)


@pytest.mark.parametrize("text", ["postgresql://host/db", "postgresql://app@host/db", "a: b@c"])
def test_the_rest_is_left_as_it_is(text: str) -> None:
    assert mask(text) == text


def test_every_key_is_shown_with_its_source(both: Path) -> None:
    rows = {row["name"]: row for row in settings(both).as_rows()}
    assert list(rows) == list(KEYS)
    assert rows["workers"] == {"name": "workers", "value": 2, "source": "setup.cfg"}
