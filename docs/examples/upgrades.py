"""Upgrade tasks: each schema runs once what it has not seen."""

import sys

from sqlalchemy import Column, Integer, Text, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm import SessionManager
from onegov_orm.embedded import EmbeddedServer
from onegov_orm.fleet import Fleet
from onegov_orm.upgrade import UpgradeContext, upgrade_task


class Base(DeclarativeBase):
    pass


class Resident(Base):
    __tablename__ = "residents"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@upgrade_task("Add the residents' initials")
def add_initials(context: UpgradeContext) -> None:
    context.add_column_with_defaults(
        "residents", Column("initial", Text, nullable=False), lambda resident: resident.name[0]
    )


@upgrade_task("Add an index on the initials", requires="Add the residents' initials")
def add_index(context: UpgradeContext) -> None:
    context.operations.create_index("ix_residents_initial", "residents", ["initial"])


@upgrade_task("Remove residents without a name")
def remove_nameless(context: UpgradeContext) -> bool:
    nameless = context.session.scalars(select(Resident).where(Resident.name == "")).all()
    for resident in nameless:
        context.session.delete(resident)
    return bool(nameless)


@upgrade_task("Refuse negative ages")
def refuse_negative_ages(context: UpgradeContext) -> None:
    if context.schema == "towns-zurich":
        raise RuntimeError("somebody is -3 years old here")
    context.add_column_with_defaults("residents", Column("age", Integer), None)
    context.operations.create_check_constraint("ck_age", "residents", "age >= 0")


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base, upgrades=[])
    for town in ("towns-bern", "towns-zurich"):
        with mgr.schema(town) as session:
            session.add(Resident(name="Ada"))

    fleet = Fleet(mgr, upgrades=[sys.modules[__name__]])
    for result in fleet.upgrade(task="Add an index on the initials").results:
        print(result.schema, result.outcome, result.detail, sep=": ")
    for result in fleet.upgrade().results:
        print(result.schema, result.outcome, result.detail or result.error, sep=": ")
    for status in fleet.upgrade_status():
        print(status.schema, [task.name for task in status.pending])

    with mgr.schema("towns-bern") as session:
        print(session.execute(text("SELECT name, initial FROM residents")).all())

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
