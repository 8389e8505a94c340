"""Health is open to everybody: asking often costs one check."""

from __future__ import annotations

import asyncio
import threading

from api.health import KEPT_S
from tests.api_client import Server, key_entry, serving


class SlowStore:
    """A store's check that lasts until it is told to end."""

    def __init__(self, server: Server) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.count = 0
        server.storage.check = self

    def __call__(self) -> None:
        self.count += 1
        self.begun.set()
        self.may_end.wait()


async def test_all_callers_share_one_check_and_files_go_on(tmp_path):
    async with serving(tmp_path, api_keys=key_entry("acme", "key")) as server:
        key = {"x-api-key": "key"}
        await server.http.put("/v1/files/a.txt", content=b"abc", headers=key)
        check = SlowStore(server)
        try:
            paths = ["/readyz", "/v1/tasks/health"] * 50
            asking = [asyncio.ensure_future(server.http.get(path)) for path in paths]
            await asyncio.to_thread(check.begun.wait)
            got = await server.http.get("/v1/files/download/a.txt", headers=key)
            assert got.content == b"abc"
            asking[0].cancel()
        finally:
            check.may_end.set()
        answers = await asyncio.gather(*asking[1:])
        assert {answer.status_code for answer in answers} == {200}
        assert check.count == 1


async def test_an_answer_serves_for_a_moment(tmp_path):
    async with serving(tmp_path) as server:
        check = SlowStore(server)
        check.may_end.set()
        for waited_s, count in ((0, 1), (KEPT_S / 2, 1), (KEPT_S / 2, 2), (0, 2)):
            server.clock.advance(waited_s)
            assert (await server.http.get("/readyz")).status_code == 200
            assert check.count == count
