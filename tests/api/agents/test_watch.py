"""Those who follow a chat."""

from __future__ import annotations

from collections.abc import Callable

import trio

from tests.labs.agents import agents_lab
from tests.labs.language_model.scripted import said


async def test_watchers_hear_what_is_being_said() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        heard: list[str] = []

        async def listen(watching: Callable[[], None]) -> None:
            with lab.runs.followers.watch(chat.id) as watch:
                watching()
                while not heard:
                    _, words = await watch.wait()
                    heard.extend([words.text] if words.text else [])

        ready = trio.Event()
        lab.nursery.start_soon(listen, ready.set)
        await ready.wait()
        lab.talker.parent = [said("Hello.")]
        await lab.ask(chat)
        assert heard == ["Hello."]
        assert lab.runs.followers._watches == {}
