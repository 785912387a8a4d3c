"""Whatever is stored of a chat, what is made of it keeps the API's rules."""

from __future__ import annotations

import copy
import io
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from api.agents import transcript
from api.agents.transcript import BATCH, KEEP, Block, Stored, request_messages
from tests.labs.language_model import rules as model_rules

TOOLS = [
    {"name": "look", "input_schema": {"type": "object"}},
    {"type": "computer_toolset_20260801"},
]


def png(width: int = 2, height: int = 2) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


SMALL = png()


class Files:
    """Stored pictures, and which were asked for."""

    def __init__(self, data: bytes = SMALL) -> None:
        self.data = data
        self.loaded: list[int] = []

    async def load(self, file_id: UUID) -> tuple[str, bytes]:
        self.loaded.append(file_id.int)
        return "image/png", self.data


def text(words: str) -> Block:
    return {"type": "text", "text": words}


def picture(number: int = 0) -> Block:
    return {"type": "image", "source": {"type": "stored", "file_id": str(UUID(int=number))}}


def call(name: str, toolset: bool = False) -> Block:
    block: Block = {"type": "tool_use", "id": name, "name": "screenshot", "input": {}}
    return {**block, "toolset_name": "computer"} if toolset else block


def result(name: str, content: Any = "Done.", **more: Any) -> Block:
    return {"type": "tool_result", "tool_use_id": name, "content": content, **more}


def user(*blocks: Block) -> Stored:
    return "user", list(blocks)


def assistant(*blocks: Block) -> Stored:
    return "assistant", list(blocks)


def thinking(words: str = "Hm.") -> Block:
    return {"type": "thinking", "thinking": words, "signature": "c2ln"}


async def made(*stored: Stored, files: Files | None = None) -> list[dict[str, Any]]:
    """The messages without cache marks, after a check of the rules."""
    before = copy.deepcopy(stored)
    messages = await request_messages(stored, (files or Files()).load)
    assert stored == before
    check(messages)
    messages = copy.deepcopy(messages)
    for message in messages:
        for block in message["content"]:
            block.pop("cache_control", None)
    return messages


def check(messages: list[dict[str, Any]]) -> None:
    if messages:
        model_rules.check_body(
            {"model": "m", "max_tokens": 1, "messages": messages, "tools": TOOLS}
        )


INTERRUPTED = [
    text(
        "Interrupted: this may have been done, wholly or in part. Find out before you do it again."
    )
]


class TestRepair:
    async def test_what_is_well_stays(self) -> None:
        stored = [
            user(text("Hello")),
            assistant(thinking(), text("I look."), call("a")),
            user(result("a", [text("A wall.")]), text("And now?")),
            assistant(text("A wall.")),
            user(text("Thanks")),
        ]
        messages = await made(*stored)
        assert [(m["role"], m["content"]) for m in messages] == stored

    async def test_calls_without_a_result_are_answered(self) -> None:
        messages = await made(user(text("Hello")), assistant(call("a"), call("b", toolset=True)))
        assert messages[2:] == [
            {
                "role": "user",
                "content": [
                    result("a", INTERRUPTED, is_error=True),
                    result("b", INTERRUPTED, is_error=True, toolset_name="computer"),
                ],
            }
        ]

    async def test_also_where_the_user_went_on(self) -> None:
        messages = await made(
            user(text("Hello")),
            assistant(call("a"), call("b")),
            user(text("Stop")),
            user(result("b")),
        )
        assert messages[2]["content"] == [
            result("a", INTERRUPTED, is_error=True),
            result("b", [text("Done.")]),
            text("Stop"),
        ]

    async def test_results_come_in_the_order_of_their_calls(self) -> None:
        messages = await made(
            user(text("Hello")),
            assistant(call("a"), call("b")),
            user(text("Well?"), result("b"), result("a")),
        )
        kinds = [block.get("tool_use_id") for block in messages[2]["content"]]
        assert kinds == ["a", "b", None]

    async def test_orphans_and_second_results_are_dropped(self) -> None:
        messages = await made(
            user(text("Hello"), result("x")),
            assistant(call("a")),
            user(result("a", "first"), result("a", "second"), result("x")),
            user(result("a", "third")),
            assistant(text("Well.")),
            user(result("a"), text("Bye")),
        )
        assert messages[0]["content"] == [text("Hello")]
        assert messages[2]["content"] == [result("a", [text("first")])]
        assert messages[4]["content"] == [text("Bye")]

    async def test_a_message_of_orphans_alone_is_none(self) -> None:
        messages = await made(
            user(text("Hello")),
            assistant(call("a")),
            user(result("x")),
            assistant(call("b")),
            user(result("a"), result("b")),
        )
        assert [len(message["content"]) for message in messages] == [1, 2, 2]

    async def test_an_id_that_comes_twice(self) -> None:
        """A reply that was stored again after a crash."""
        messages = await made(
            user(text("Hello")),
            assistant(text("I look."), call("a")),
            assistant(text("I look."), call("a")),
            user(result("a")),
        )
        assert messages[1]["content"] == [text("I look."), call("a"), text("I look.")]

    async def test_roles_alternate(self) -> None:
        messages = await made(
            user(text("a")),
            user(text("b")),
            assistant(text("c")),
            assistant(text("d")),
            user(text("e")),
        )
        assert [m["content"] for m in messages] == [
            [text("a"), text("b")],
            [text("c"), text("d")],
            [text("e")],
        ]

    async def test_empty_texts_and_messages_are_dropped(self) -> None:
        messages = await made(
            user(text("a"), text(""), text(" \n")),
            assistant(text("")),
            user(text("b")),
            assistant(text(""), text("c")),
            user(),
            user(text("d")),
        )
        assert [m["content"] for m in messages] == [
            [text("a"), text("b")],
            [text("c")],
            [text("d")],
        ]

    @pytest.mark.parametrize(
        ("content", "is_error", "expected"),
        [
            ("", False, [text("(no output)")]),
            ([], True, [text("(no output)")]),
            ([text(""), text("a")], False, [text("a")]),
            ([text("a"), picture()], True, [text("a")]),
            ("It failed.", True, [text("It failed.")]),
        ],
    )
    async def test_contents_of_results(
        self, content: Any, is_error: bool, expected: list[Block]
    ) -> None:
        messages = await made(
            user(text("Hello")), assistant(call("a")), user(result("a", content, is_error=is_error))
        )
        assert messages[2]["content"][0]["content"] == expected

    async def test_a_reply_cut_off_while_the_model_thought(self) -> None:
        messages = await made(
            user(text("Hello")),
            assistant(thinking(), text("a"), thinking()),
            assistant(thinking()),
            user(text("Well?")),
        )
        assert messages[1]["content"] == [thinking(), text("a")]

    async def test_the_user_has_the_first_and_the_last_word(self) -> None:
        messages = await made(
            assistant(text("a"), call("x")), user(text("b")), assistant(text("c"))
        )
        assert [m["content"] for m in messages] == [[text("b")], [text("c")], [text("Continue.")]]

    @pytest.mark.parametrize("stored", [[], [assistant(text("a"))], [user(text(" "))]])
    async def test_nothing_to_say(self, stored: list[Stored]) -> None:
        assert await made(*stored) == []


def looks(count: int) -> list[Stored]:
    """A chat in which the model took that many pictures, the first being number 1."""
    stored = [user(text("Hello"))]
    for number in range(1, count + 1):
        stored.append(assistant(call(f"c{number}")))
        stored.append(user(result(f"c{number}", [text("OK"), picture(number)])))
    return stored


def shape(messages: list[dict[str, Any]]) -> list[str]:
    """A word for each block inside of results: text, image, left."""
    words = []
    for message in messages:
        for block in message["content"]:
            for part in block.get("content", []):
                left = part.get("text") == transcript.LEFT_OUT
                words.append("left" if left else part["type"])
    return [word for word in words if word != "text"]


class TestPictures:
    async def test_they_are_put_in(self) -> None:
        messages = await made(user(picture(7), text("What is it?")))
        source = messages[0]["content"][0]["source"]
        assert source["type"] == "base64"
        assert source["media_type"] == "image/png"

    @pytest.mark.parametrize("count", [1, KEEP, KEEP + BATCH - 1, KEEP + BATCH, 3 * BATCH + 5, 64])
    async def test_the_newest_are_kept_and_only_they_are_loaded(self, count: int) -> None:
        files = Files()
        found = shape(await made(*looks(count), files=files))
        kept = found.count("image")
        assert found == ["left"] * (count - kept) + ["image"] * kept
        assert min(count, KEEP) <= kept <= 20
        assert sorted(files.loaded) == list(range(count - kept + 1, count + 1))

    async def test_the_beginning_changes_once_in_a_batch(self) -> None:
        changes = []
        before = await made(*looks(0))
        for count in range(1, 6 * BATCH):
            now = await made(*looks(count))
            if now[: len(before)] != before:
                changes.append(count)
            before = now
        assert changes == [KEEP + BATCH * n for n in range(1, len(changes) + 1)]
        assert len(changes) == 4

    async def test_one_that_the_api_would_refuse(self) -> None:
        files = Files(bytes(transcript.IMAGE_BYTES + 1))
        messages = await made(user(picture(), text("Well?")), files=files)
        assert messages[0]["content"][0] == text(transcript.TOO_LARGE)

    async def test_all_together_have_a_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transcript, "IMAGES_BYTES", 3 * len(SMALL))
        files = Files()
        assert shape(await made(*looks(6), files=files)) == ["left"] * 3 + ["image"] * 3
        assert files.loaded == [6, 5, 4, 3]

    async def test_the_bounds_fit_the_api(self) -> None:
        assert (transcript.IMAGE_BYTES + 2) // 3 * 4 <= model_rules.IMAGE_BASE64_BYTES
        assert KEEP + BATCH - 1 <= model_rules.FEW_IMAGES

    async def test_a_file_that_is_gone(self) -> None:
        async def load(file_id: UUID) -> tuple[str, bytes]:
            raise LookupError(file_id)

        with pytest.raises(LookupError):
            await request_messages([user(picture())], load)


class TestCacheMarks:
    async def test_the_last_block_of_the_last_two_user_messages(self) -> None:
        messages = await request_messages([*looks(3), user(text("Well?"))], Files().load)
        marked = [
            (number, index)
            for number, message in enumerate(messages)
            for index, block in enumerate(message["content"])
            if "cache_control" in block
        ]
        assert marked == [(4, 0), (6, 1)]

    async def test_what_was_marked_is_the_next_ones_beginning(self) -> None:
        """So that the API finds what it stored, however many blocks have come since."""
        before = await request_messages(looks(3), Files().load)
        more = [call(f"n{number}") for number in range(30)]
        now = await request_messages(
            [*looks(3), assistant(*more), user(*[result(block["id"]) for block in more])],
            Files().load,
        )
        assert "cache_control" in now[len(before) - 1]["content"][-1]


# Stored lists that no good program writes.

IDS = st.sampled_from("abcdef")
TEXTS = st.sampled_from(["", " ", "\n", "Hello", "Well?"]).map(text)
PARTS = st.lists(st.one_of(TEXTS, st.just(picture())), max_size=3)


def _result(name: str, content: Any, is_error: bool | None) -> Block:
    block = result(name, content)
    if content is None:
        del block["content"]
    if is_error is not None:
        block["is_error"] = is_error
    return block


RESULTS = st.builds(
    _result,
    IDS,
    st.one_of(st.none(), st.sampled_from(["", "Done."]), PARTS),
    st.sampled_from([None, False, True]),
)
USERS = st.lists(st.one_of(TEXTS, st.just(picture()), RESULTS, RESULTS), max_size=6).map(
    lambda blocks: user(*blocks)
)
THINKING = st.sampled_from([thinking(), {"type": "redacted_thinking", "data": "ZGF0YQ=="}])
ASSISTANTS = st.lists(
    st.one_of(TEXTS, THINKING, st.builds(call, IDS, st.booleans())), max_size=5
).map(lambda blocks: assistant(*blocks))
CHATS = st.lists(st.one_of(USERS, ASSISTANTS), max_size=12)


class TestWhateverIsStored:
    @given(CHATS)
    @settings(max_examples=400, deadline=None)
    @example([assistant(call("a")), user(result("a"))])
    async def test_the_rules_are_kept(self, stored: list[Stored]) -> None:
        messages = await made(*stored)
        said = [b for role, blocks in stored for b in blocks if _is_text(b) and role == "user"]
        sent = [b for m in messages for b in m["content"] if m["role"] == "user" and _is_text(b)]
        # No word of the user is lost. What stands for an old picture is not the user's.
        ours = text("Continue."), text(transcript.LEFT_OUT)
        assert [b for b in sent if b not in ours] == said

    @given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
    @settings(max_examples=50, deadline=None)
    async def test_never_too_many_pictures(self, counts: list[int]) -> None:
        stored = [user(text("Go"), *[picture(n) for _ in range(n)]) for n in counts]
        files = Files()
        messages = await made(*stored, files=files)
        images = [b for m in messages for b in m["content"] if b["type"] == "image"]
        assert len(images) == len(files.loaded) <= 20
        assert len(images) >= min(KEEP, sum(counts))


def _is_text(block: Block) -> bool:
    return block["type"] == "text" and bool(block["text"].strip())
