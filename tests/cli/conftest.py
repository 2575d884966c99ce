"""A project with models in a folder of its own, and ways to call the command line in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onegov_orm.cli import main

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 60

MODELS = """\
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Resident(Base):
    __tablename__ = "residents"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
"""
EMAIL = "    email: Mapped[str | None]\n"


@dataclass
class Ended:
    """How a call ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


class Project:
    """A folder with models and a configuration."""

    def __init__(self, folder: Path, dsn: str, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.newest = ""
        self.dsn = dsn
        self._capture = capture
        self.write("towns.py", MODELS)
        self.configure(dsn=dsn, base="towns:Base", required_extensions=[])

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        sys.modules.pop(path.stem, None)
        return path

    def configure(self, **values: Any) -> None:
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        self.write("pyproject.toml", "\n".join(["[tool.onegov_orm]", *lines]))

    def __call__(self, *arguments: str) -> Ended:
        """Call the command line in this process, as if without a terminal."""
        self._capture.readouterr()
        code = main(arguments)
        return Ended(code, *self._capture.readouterr())

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "ONEGOV" not in name}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            **more,
        }

    def process(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        options = {"stdin": subprocess.DEVNULL, **options}
        return subprocess.Popen(
            [sys.executable, "-m", "onegov_orm", *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, *arguments: str, text: str | None = None) -> Ended:
        """Call the command line in a process of its own."""
        pipe = subprocess.DEVNULL if text is None else subprocess.PIPE
        process = self.process(*arguments, stdin=pipe)
        out, err = process.communicate(text, timeout=TIMEOUT_SECONDS)
        return Ended(process.returncode, out, err)


@pytest.fixture
def bare_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Project]:
    """A project whose database nobody listens on."""
    before = set(sys.modules)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    for name in list(os.environ):
        if name.startswith("ONEGOV_ORM_"):
            monkeypatch.delenv(name)
    yield Project(tmp_path, "postgresql://app:geheim@127.0.0.1:1/towns", capsys)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def project(bare_project: Project, common_dsn: str) -> Project:
    """A project with a database."""
    bare_project.dsn = common_dsn
    bare_project.configure(dsn=common_dsn, base="towns:Base", required_extensions=[])
    return bare_project


Look = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def look(project: Project, outside: Callable[[str], Look]) -> Look:
    """Ask the project's database from outside."""
    return outside(project.dsn)
