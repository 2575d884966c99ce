"""The same towns under asyncio: blocks, tasks, hooks that are awaited, and a cancellation."""

import asyncio

from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm import AsyncSessionManager
from onegov_orm.embedded import EmbeddedServer


class Base(DeclarativeBase):
    pass


class Resident(Base):
    __tablename__ = "residents"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


COUNT = select(func.count()).select_from(Resident)


async def main(dsn: str) -> None:
    mgr = AsyncSessionManager(dsn, Base)

    # A block is a unit of work, as with the SessionManager.
    async with mgr.schema("towns-bern") as session:
        session.add(Resident(name="Ada"))

        # Post-processing may be a coroutine function: it is awaited, after the commit.
        @mgr.after_commit
        async def send_letter() -> None:
            async with mgr.schema("towns-bern", readonly=True) as reading:
                print("committed:", await reading.scalar(COUNT))

    # Each task has a session of its own, and so they can work side by side.
    async def census(town: str) -> tuple[str, int | None]:
        async with mgr.schema(town) as session:
            return town, await session.scalar(COUNT)

    print(await asyncio.gather(census("towns-bern"), census("towns-zurich")))

    # Serialization failures and deadlocks are tried again, each time in a new block.
    async for attempt in mgr.attempts(tries=3):
        async with attempt, mgr.schema("towns-zurich") as session:
            session.add(Resident(name="Grace"))

    # A client that does not wait any longer: the block is aborted, the connection is clean.
    try:
        async with asyncio.timeout(0.1), mgr.schema("towns-zurich") as session:
            session.add(Resident(name="Edsger"))
            await session.flush()
            await asyncio.sleep(60)
    except TimeoutError:
        print(await census("towns-zurich"))

    await mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        asyncio.run(main(server.create_database("towns", driver="asyncpg")))
