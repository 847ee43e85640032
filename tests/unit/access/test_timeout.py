"""A request is given up after `serving.timeout`, and still counts while its thread works."""

import asyncio
import threading

import pytest

from holdfast.backend.api.deadlines import Deadlines
from holdfast.backend.api.notices import Notices
from holdfast.backend.api.predict import PredictApp


def test_work_that_was_given_up_counts_until_it_ends() -> None:
    release = threading.Event()
    app = PredictApp(lambda: pytest.fail("not opened"), 1, Notices(), 1.0)

    async def given_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await app._slow(lambda: {"released": release.wait(30)})
        assert app._waiting == 1
        release.set()
        while app._waiting:
            await asyncio.sleep(0.001)
        assert await app._slow(lambda: {"again": True}) == {"again": True}

    asyncio.run(asyncio.wait_for(given_up(), 60))
    app._pool.shutdown()


def test_only_what_is_late_is_given_up() -> None:
    async def all_of_them() -> None:
        deadlines = Deadlines(0.2)
        deadlines.start(asyncio.get_running_loop())
        never = asyncio.Event()

        async def waits() -> str:
            try:
                with deadlines:
                    await never.wait()
            except TimeoutError:
                await asyncio.sleep(0)  # no cancellation is left over
                return "late"
            return "in time"

        async def quick() -> str:
            with deadlines:
                await asyncio.sleep(0)
            return "in time"

        late = [asyncio.create_task(waits()) for _ in range(5)]
        assert {await asyncio.create_task(quick()) for _ in range(20)} == {"in time"}
        assert set(await asyncio.gather(*late)) == {"late"}
        assert deadlines._begun == {}
        assert deadlines._late == set()
        stopped = asyncio.create_task(waits())
        await asyncio.sleep(0)
        stopped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopped

    asyncio.run(asyncio.wait_for(all_of_them(), 60))


def test_an_error_within_stays_what_it_is() -> None:
    async def fails() -> None:
        with Deadlines(1):
            raise KeyError("x")

    with pytest.raises(KeyError):
        asyncio.run(fails())
