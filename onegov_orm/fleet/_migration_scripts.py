"""Reads an Alembic environment: its configuration, its revisions, and what its env.py tells."""

from __future__ import annotations

import os
import sys
import threading
from argparse import Namespace
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any, Final

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError

from onegov_orm.errors import MigrationError, OrmError
from onegov_orm.fleet._migration_job import ATTRIBUTE, OptionsJob

#: Held by whoever runs revisions or env.py: Alembic's ``op`` and ``context`` are global.
ALEMBIC: Final = threading.RLock()

_ADVICE: Final = (
    "has to call env.run() of `from onegov_orm.fleet import env` with the options of "
    "context.configure(), and nothing else: see migrations/README, or what init writes"
)


class Direction(StrEnum):
    """What is done with revisions."""

    UPGRADE = "upgrade"
    DOWNGRADE = "downgrade"
    STAMP = "stamp"


class Scripts:
    """The revisions of an environment, as they are on disk when this is made."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not (self.folder / "env.py").is_file():
            raise MigrationError(
                f"{self.folder} is no Alembic environment, it has no env.py: `onegov-orm init` "
                "makes one"
            )
        with ALEMBIC, translated():
            self.config = configuration(self.folder)
            self.directory = _directory(self.config)
            _load(self.directory)

    @cached_property
    def options(self) -> dict[str, Any]:
        """The options that env.py configures Alembic with; env.py is run for them, once."""
        with ALEMBIC, translated():
            return _options(self.config, self.directory)

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """The newest revisions, as a schema that has them all names them."""
        with translated():
            return tuple(sorted(script.revision for script in self._all("heads")))

    def history(self) -> list[Script]:
        """Return all revisions, the newest first."""
        with translated():
            return list(self.directory.walk_revisions())

    def pending(self, start: Iterable[str]) -> tuple[str, ...]:
        """Return the revisions that lead from some to the newest, in order."""
        steps = self.steps(Direction.UPGRADE, "heads", start)
        return tuple(revision_of(step) for step in steps)

    def unknown(self, versions: Iterable[str]) -> tuple[str, ...]:
        """Return the revisions that no script is there for."""
        return tuple(sorted(version for version in versions if not self._has(version)))

    def check_target(self, direction: Direction, target: str | Sequence[str]) -> None:
        """Raise `MigrationError` for a revision that there is not, or that is ambiguous."""
        targets = [target] if isinstance(target, str) else list(target)
        if not targets or (len(targets) > 1 and direction is not Direction.STAMP):
            raise MigrationError(f"one revision is needed as the target, not {targets}")
        for each in targets:
            if not _is_relative(each):
                with translated():
                    self._all(each)
            elif direction is Direction.STAMP:
                raise MigrationError(f"a schema can't be stamped with the relative {each!r}")

    def steps(
        self, direction: Direction, target: str | Sequence[str], start: Iterable[str]
    ) -> list[Any]:
        """Return Alembic's steps from some revisions to the target; raises `MigrationError`."""
        heads: Any = tuple(sorted(start))
        destination: Any = target if isinstance(target, str) else tuple(target)
        with ALEMBIC, translated():
            if direction is Direction.UPGRADE:
                return list(self.directory._upgrade_revs(destination, heads))
            if direction is Direction.DOWNGRADE:
                return list(self.directory._downgrade_revs(destination, heads))
            return list(self.directory._stamp_revs(destination, heads))

    def refuse_unknown(self, versions: Collection[str]) -> None:
        """Raise `MigrationError` for revisions that no script is there for."""
        unknown = self.unknown(versions)
        if unknown:
            raise MigrationError(
                f"the schema is at {', '.join(unknown)}, which is not in {self.folder}: bring "
                "the scripts up to date, or stamp the schema with purge if they are gone for good"
            )

    def _has(self, version: str) -> bool:
        try:
            found: Any = self.directory.get_revision(version)
        except CommandError:
            return False
        return found is not None and found.revision == version

    def _all(self, target: str) -> list[Script]:
        # For a target such as ``base``, there is None among them, whatever the annotation says.
        scripts: list[Any] = list(self.directory.get_revisions(target))
        return [script for script in scripts if script is not None]


def configuration(folder: Path, **x_arguments: str) -> Config:
    """Return Alembic's configuration: of the alembic.ini beside the folder, if it is about it."""
    given = Namespace(x=[f"{name}={value}" for name, value in x_arguments.items()], quiet=True)
    ini = folder.absolute().parent / "alembic.ini"
    if ini.is_file():
        config = Config(str(ini), cmd_opts=given, stdout=StringIO())
        location = config.get_main_option("script_location")
        if location and Path(location).absolute() == folder.absolute():
            return config
    config = Config(cmd_opts=given, stdout=StringIO())
    config.set_main_option("script_location", str(folder.absolute()).replace("%", "%%"))
    return config


@contextmanager
def translated() -> Iterator[None]:
    """Raise Alembic's complaints as `MigrationError`."""
    try:
        yield
    except CommandError as exc:
        cause = exc.__cause__
        raise (cause if isinstance(cause, OrmError) else MigrationError(str(exc))) from exc


def revision_of(step: Any) -> str:
    """Return the revision that a step is about."""
    return str(step.revision.revision)


def _is_relative(target: str) -> bool:
    """Tell whether the target counts from somewhere: ``+1``, ``branch@-2``, ``ae10+1``."""
    number = target.rpartition("@")[2]
    sign = max(number.rfind("+"), number.rfind("-"))
    return sign >= 0 and number[sign + 1 :].isdigit()


def _directory(config: Config) -> ScriptDirectory:
    """Read the scripts; what the configuration puts on ``sys.path`` is put there once."""
    before = list(sys.path)
    directory = ScriptDirectory.from_config(config)
    added = sys.path[: len(sys.path) - len(before)]
    if all(path in before for path in added):
        sys.path[:] = before
    return directory


def _load(directory: ScriptDirectory) -> None:
    """Load all revisions; raises `MigrationError` for a mistake in one of them."""
    try:
        directory.get_revisions("heads")
    except CommandError:
        raise
    except Exception as exc:
        raise MigrationError(
            f"the revisions in {directory.dir} can't be read: {type(exc).__name__}: {exc}"
        ) from exc


def _options(config: Config, directory: ScriptDirectory) -> dict[str, Any]:
    job = OptionsJob()
    config.attributes[ATTRIBUTE] = job
    # Alembic's proxies know its own class only, which is why this is no subclass.
    environment: Any = EnvironmentContext(config, directory)

    def configure(*_: Any, **__: Any) -> None:
        # Who gets here would migrate a schema that nobody named.
        raise MigrationError(f"{directory.dir}/env.py calls context.configure(): it {_ADVICE}")

    environment.configure = configure
    try:
        with environment:
            directory.run_env()
    except Exception as exc:
        if isinstance(exc, (OrmError, CommandError)) or _calls_run(directory):
            raise
        raise MigrationError(
            f"{directory.dir}/env.py fails ({type(exc).__name__}: {exc}): it {_ADVICE}"
        ) from exc
    finally:
        del config.attributes[ATTRIBUTE]
    if job.options is None:
        raise MigrationError(f"{directory.dir}/env.py {_ADVICE}")
    return job.options


def _calls_run(directory: ScriptDirectory) -> bool:
    return "onegov_orm" in (Path(directory.dir) / "env.py").read_text(errors="replace")
