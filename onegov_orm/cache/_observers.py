"""Which cached properties depend on objects: whoever changes one has to ask them."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from onegov_orm.cache.policies import ObjectChange

if TYPE_CHECKING:
    from sqlalchemy import Table

logger = logging.getLogger("onegov_orm.cache")

#: The policies by the decorated properties, which live as long as their classes.
_POLICIES: weakref.WeakKeyDictionary[Any, tuple[str, ObjectChange[Any]]] = (
    weakref.WeakKeyDictionary()
)


def observe(name: str, policy: ObjectChange[Any], descriptor: Any) -> None:
    """Have changes looked at for a property, as long as that exists."""
    _POLICIES[descriptor] = name, policy


def concerned(tables: Collection[Table], objects: Collection[Any] | None) -> Iterator[str]:
    """Yield the names of the properties whose values the changes outdate."""
    for name, policy in list(_POLICIES.values()):
        if objects is None:
            if any(policy.concerns_table(table) for table in tables):
                yield name
        elif any(_concerns(name, policy, obj) for obj in objects):
            yield name


def _concerns(name: str, policy: ObjectChange[Any], obj: Any) -> bool:
    try:
        return policy.concerns(obj)
    except Exception:  # whatever the application's function may raise
        logger.exception("the policy of %s failed for a %s", name, type(obj).__name__)
        return True
