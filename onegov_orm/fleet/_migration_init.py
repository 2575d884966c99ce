"""Makes a new Alembic environment for an application."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from onegov_orm.errors import MigrationError

_BASE: Final = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")

#: The files of an environment, by the templates that they are made of.
_FILES: Final = {
    "env.py.txt": "env.py",
    "script.py.mako.txt": "script.py.mako",
    "README.txt": "README",
}


def init_environment(
    folder: str | os.PathLike[str], *, base: str = "app.models:Base", timezone: str = "UTC"
) -> list[Path]:
    """Write an environment for the models of a declarative base, and the alembic.ini beside it.

    Returns the files. Raises `MigrationError` if one of them is there already, and writes none.
    """
    target = Path(folder)
    found = _BASE.fullmatch(base)
    if found is None:
        raise MigrationError(f'the base is named as in "app.models:Base", not {base!r}')
    values = {
        "module": found[1],
        "name": found[2],
        "folder": target.name.replace("%", "%%"),
        "timezone": timezone,
    }
    wanted = {target / name: _filled(template, values) for template, name in _FILES.items()}
    wanted[target.parent / "alembic.ini"] = _filled("alembic.ini.txt", values)
    taken = [str(path) for path in (*wanted, target / "versions") if path.exists()]
    if taken:
        raise MigrationError(f"nothing is overwritten, and {', '.join(taken)} exist already")
    (target / "versions").mkdir(parents=True)
    for path, text in wanted.items():
        path.write_text(text)
    return list(wanted)


def _filled(template: str, values: dict[str, str]) -> str:
    source = files("onegov_orm.fleet").joinpath("templates").joinpath(template)
    return _Template(source.read_text()).substitute(values)


class _Template(Template):
    """A text with ``@{names}``: dollars are Mako's own."""

    delimiter = "@"
    # A decorator or an address is no placeholder.
    idpattern = r"(?!)"
    braceidpattern = r"[a-z]+"
    flags = re.NOFLAG
