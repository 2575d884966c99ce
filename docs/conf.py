"""Sphinx's configuration."""

from __future__ import annotations

import logging
import sys
import warnings
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# Autodoc looks at each attribute, which SQLAlchemy has an opinion of where a class is a mixin.
warnings.filterwarnings("ignore", "Unmanaged access of declarative attribute")
logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)

_metadata = ConfigParser()
_metadata.read(ROOT / "setup.cfg")

project = "onegov_orm"
author = _metadata["metadata"]["author"]
copyright = author
release = version = _metadata["metadata"]["version"]

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build", "examples"]
# In docstrings, what stands in single backquotes is code: a name, an option, an expression.
default_role = "code"
nitpicky = True
# What SQLAlchemy, blinker and the standard library have is documented elsewhere, and a build
# must not depend on the network to look there.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(sqlalchemy|blinker|collections|contextlib|datetime|decimal|os|pathlib|types|typing)\..*",
    ),
    (r"py:.*", r"(threading\.Event|datetime|timedelta|MetaData|ModuleType|Operations)"),
    (r"py:.*", r"(Any|Callable|Collection|Final|Iterator|Literal|Mapping|Self|Sequence)(\[.*)?"),
    (r"py:.*", r"(AbstractContextManager|Connection|Engine|Path|PathLike|Session|Signal|URL)"),
    (r"py:.*", r"(markupsafe|dogpile)\..*"),
    (r"py:.*", r"(Coroutine|TypeIs|ColumnExpressionArgument|Function|TypeDecorator|CacheRegion)"),
    (r"py:.*", r"(hybrid_property|SupportsRichComparison|Query|Table|Subquery|TextIO|Markup)"),
    # Type variables, and what only type checkers use.
    (r"py:.*", r"(onegov_orm\.([a-z_]+\.)*)?([A-Z]|[A-Za-z]+T|[A-Z]_co)"),
    (r"py:.*", r"onegov_orm\.(mixins\.content\.\w+Factory|cache\.descriptors\.\w+Decorator)"),
    (r"py:.*", r"(TracebackType|DeclarativeBase|Hook|IdentityKey|IsolationLevel|StopMode)"),
    # What the library itself has, but for its own use.
    (r"py:.*", r"(Binaries|Check|FleetContext|Holder|Modules|OnProgress|OnResult|Step)"),
    (r"py:.*", r"onegov_orm\.(_|typing\.|([a-z]+\.)+[A-Z]$).*"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"
autodoc_default_options = {"members": True, "exclude-members": "__new__"}
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"onegov_orm {release}"
html_show_sphinx = False
html_copy_source = False
