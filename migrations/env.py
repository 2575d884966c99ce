"""Tells Alembic what the example's models are; revisions run in the schema of one customer.

::

    python -m alembic -x schema=towns-bern -x dsn=postgresql://localhost/towns upgrade head

``-x schema`` is always needed: without it there is nothing sensible to migrate. The database is
named by ``-x dsn``, or by ``sqlalchemy.url`` in ``alembic.ini``. All customers at once are
migrated by ``onegov_orm.fleet.Fleet``, or ``onegov-orm migrate``.
"""

from __future__ import annotations

from alembic import context

from examples.towns.models import Base
from onegov_orm.fleet import env

env.run(context, target_metadata=Base.metadata)
