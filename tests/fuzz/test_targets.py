"""Each fuzz target on its corpus and on a few hundred inputs of its own, always the same; and
that a target notices a parser that breaks its invariant."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fuzz import conversations, driver, targets, with_atheris
from fuzz.inputs import made
from fuzz.rectangles import BODIES, GROUPS, framed
from fuzz.seeds import CORPUS, corpus
from relay.rfb import encodings, from_desktop, from_viewer
from relay.rfb.encodings.zlib import Zlib
from relay.rfb.reader import Reader

CASES = [(target, name) for target in targets.names() for name in corpus(target)]

Seen = set[tuple[str, int]]


def generated(target: str, count: int) -> Iterator[bytes]:
    rng = random.Random(target)
    seeds = list(corpus(target).values())
    for _ in range(count):
        yield made(rng, seeds)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What has passed in conversations: messages and rectangles by number."""
    passed: Seen = set()

    def observe(kind: str, number: int, offset: int) -> None:
        passed.add((kind, number))

    monkeypatch.setattr(conversations, "observer", observe)
    return passed


@pytest.mark.parametrize(("target", "name"), CASES, ids=[f"{t}/{n}" for t, n in CASES])
def test_corpus(target: str, name: str) -> None:
    targets.load(target)(corpus(target)[name])


@pytest.mark.parametrize("target", targets.names())
def test_generated(target: str) -> None:
    run = targets.load(target)
    for data in generated(target, 400):
        run(data)


def test_every_corpus_has_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(targets.names())


def test_every_target_opens_with_its_invariant() -> None:
    for path in Path(targets.__file__).parent.glob("[!_]*.py"):
        first = path.read_text().partition("\n")[0]
        assert first.startswith(('"""Only ', '"""Nothing escapes; ')), path


def test_no_encoding_is_forgotten() -> None:
    assert set(encodings.REGISTRY) <= set(BODIES)
    assert len(BODIES) == sum(len(group) for group in GROUPS.values()), "in two groups"
    assert {f"desktop_{group}" for group in GROUPS} <= set(targets.names())


@pytest.mark.parametrize("group", GROUPS)
def test_every_encoding_of_a_group_passes(group: str, seen: Seen) -> None:
    run = targets.load(f"desktop_{group}")
    for data in generated(group, 3000):
        run(data)
    assert {("rectangle", number) for number in framed(group)} <= seen


def test_every_message_passes(seen: Seen) -> None:
    for target in ("desktop_messages", "viewer"):
        run = targets.load(target)
        for data in generated(target, 1500):
            run(data)
    numbers = {*from_desktop._MESSAGES, *from_viewer._MESSAGES}
    assert {("message", number) for number in numbers} <= seen


def broken_head(*args: Any) -> int:
    raise IndexError


def forgets_to_discard(reader: Reader, pos: int, end: int, stop: int) -> int:
    kept = reader._body(pos, end, stop)
    reader.edits.append((pos, kept, b""))
    return kept


def toggles(reader: Any, buf: bytearray, pos: int, stop: int) -> int:
    buf[pos + 1] ^= 1
    return pos + 8


def test_an_error_that_is_none_of_ours_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Zlib, "measure", broken_head)
    with pytest.raises(IndexError):
        test_generated("desktop_zlib")


def test_what_depends_on_the_chunking_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "_drop", forgets_to_discard)
    with pytest.raises(AssertionError, match=r"discards nothing|forwarded"):
        test_generated("desktop_messages")


def test_what_is_not_approved_again_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(from_viewer._MESSAGES, 4, ("KeyEvent", 8, toggles))
    with pytest.raises(AssertionError, match="approved, then changed"):
        test_generated("viewer")


def test_a_tail_that_is_too_long_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(conversations._TAIL_LIMITS, "down", 100)
    with pytest.raises(AssertionError, match="bytes wait"):
        test_generated("desktop_tiles")


def test_a_crash_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "CORPUS", tmp_path)
    monkeypatch.setattr(Zlib, "measure", broken_head)
    result = driver.fuzz("desktop_zlib", 60.0, 1)
    assert result.crash is not None
    assert result.crash.name.startswith("crash-")
    assert "IndexError" in result.story
    with pytest.raises(IndexError):
        targets.load("desktop_zlib")(result.crash.read_bytes())


def test_atheris_is_asked_for_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert with_atheris.main([]) == 2
    assert capsys.readouterr().err
