"""Which cached properties depend on objects: whoever changes one has to ask them."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from onegov_orm.cache.policies import ObjectChange

if TYPE_CHECKING:
    from sqlalchemy import Table

    from onegov_orm.cache.descriptors import OrmCached

logger = logging.getLogger("onegov_orm.cache")

#: The decorated properties with such policies, which live as long as their classes.
_DESCRIPTORS: weakref.WeakSet[OrmCached[Any]] = weakref.WeakSet()


def observe(descriptor: OrmCached[Any]) -> None:
    """Have changes looked at for a property, as long as that exists."""
    _DESCRIPTORS.add(descriptor)


def concerned(
    tables: Collection[Table], objects: Callable[[], Iterable[Any]] | None
) -> Iterator[str]:
    """Yield the names of the properties whose values the changes outdate."""
    descriptors = list(_DESCRIPTORS)
    known = list(objects()) if objects is not None and descriptors else []
    for descriptor in descriptors:
        policy: Any = descriptor.policy
        if objects is None:
            if any(policy.concerns_table(table) for table in tables):
                yield descriptor.name
        elif any(_concerns(descriptor.title, policy, obj) for obj in known):
            yield descriptor.name


def _concerns(name: str, policy: ObjectChange[Any], obj: Any) -> bool:
    try:
        return policy.concerns(obj)
    except Exception:  # whatever the application's function may raise
        logger.exception("the policy of %s failed for a %s", name, type(obj).__name__)
        return True
