"""docs/protocol.md says what the source does, no more and no less."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from relay.rfb import encodings, from_desktop, from_viewer
from tests.labs import captures
from tests.labs.places import ROOT

# The numbers of rfbproto.rst (d1d7091), "Other registered encodings" and the optional message
# types, with those it describes.
REGISTERED_ENCODINGS = """
    0 1 2 4 5 6 7 8 16 21 50 -260
    -32..-23 -223 -224 -239 -240 -256..-247 -257 -258 -259 -261 -305 -307 -308 -309 -312 -313 -314
    -316 -317 -512..-412 -768..-763 0x574d5664..0x574d566a 0xc0a1e5ce
    9 10 15 17 20 22 1000..1002 1011 1024..1099 1100..1105 -22..-1 -218..-33 -222..-219 -225
    -238..-226 -246..-241 -272..-262 -304..-273 -306 -310 -311 -528..-523 0x48323634
    0x574d5600..0x574d56ff 0xc0a1e5cf 0xfffe0000..0xfffe00ff 0xffff0000..0xffff0009
    0xffff8000..0xffff8003
"""
REGISTERED_DOWN = "0..15 127 128 150 173 248..250 252..255"
REGISTERED_UP = "0 2..21 80 127 128 150 248..255"


def numbers(text: str, to: str = " to ", between: str = ",") -> set[int]:
    """Numbers and ranges, those of encodings as signed numbers of 32 bits."""
    found: set[int] = set()
    for item in filter(None, map(str.strip, text.split(between))):
        ends = sorted(int(end, 0) for end in item.split(to))
        found.update(range(ends[0], ends[-1] + 1))
    return {n - (1 << 32) if n >= 1 << 31 else n for n in found}


def registered(text: str) -> set[int]:
    return numbers(" ".join(text.split()), to="..", between=" ")


Row = dict[str, str]


def tables(section: str) -> list[list[Row]]:
    """The tables of a section, a row as its cells by the column's head."""
    text = (ROOT / "docs" / "protocol.md").read_text()
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    found: list[list[Row]] = []
    for block in body.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if lines:
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            found.append([dict(zip(cells[0], row, strict=True)) for row in cells[2:]])
    return found


def number(row: Row) -> int:
    (single,) = numbers(row["number"])
    return single


def words(row: Row) -> set[str]:
    return set(re.findall(r"`([a-z0-9-]+)`", row["checked"]))


MESSAGES = (
    ("Messages from the desktop", from_desktop._MESSAGES, "server_messages"),
    ("Messages from the viewer", from_viewer._MESSAGES, "client_messages"),
)
ENCODINGS = ("Encodings", "Pseudo-encodings")
SIGNALS = "Offers without a rectangle of their own"


@pytest.mark.parametrize(("section", "source", "_key"), MESSAGES)
def test_messages(section: str, source: dict[int, tuple[str, ...]], _key: str) -> None:
    (rows,) = tables(section)
    assert [(number(row), row["name"]) for row in rows] == [(n, r[0]) for n, r in source.items()]


@pytest.mark.parametrize(("section", "pixels"), [("Encodings", True), ("Pseudo-encodings", False)])
def test_encodings(section: str, pixels: bool) -> None:
    (rows,) = tables(section)
    of_kind = {n: e for n, e in encodings.REGISTRY.items() if e.pixels is pixels}
    assert [(number(row), row["name"]) for row in rows] == [(n, e.name) for n, e in of_kind.items()]
    for row in rows:
        permitted = number(row) in encodings.LET_THROUGH
        assert row["let through"] == ("yes" if permitted else "if permitted")
        assert ("rectangle-outside" in words(row)) is pixels
        assert row["decoded"] == "no"


def test_signals_and_levels() -> None:
    signals, levels = tables(SIGNALS)
    assert [number(row) for row in signals] == sorted(encodings.SIGNALS, reverse=True)
    listed = [numbers(row["numbers"]) for row in levels]
    assert listed == [set(level) for level in encodings.LEVELS]


def test_whatever_is_registered_is_framed_or_has_a_reason() -> None:
    framed = set(encodings.REGISTRY) | encodings.SIGNALS
    framed |= {n for level in encodings.LEVELS for n in level}
    left_out = tables("Registered and not framed")
    expected = (
        (framed, registered(REGISTERED_ENCODINGS)),
        (set(from_desktop._MESSAGES), registered(REGISTERED_DOWN)),
        (set(from_viewer._MESSAGES), registered(REGISTERED_UP)),
    )
    for rows, (handled, known) in zip(left_out, expected, strict=True):
        reasons: set[int] = set()
        for row in rows:
            assert row["reason"]
            # A row may be a range with framed ones in it, but not such a one alone.
            assert numbers(row["numbers"]) - handled
            reasons |= numbers(row["numbers"])
        assert known <= handled | reasons


def rules_in_source(folder: Path) -> set[str]:
    """The first arguments of what is raised, where they are written out."""
    makers = {"Violation", "ProtocolError", "_fault", "_viewer_fault", "_flooded"}
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if name in makers and isinstance(first, ast.Constant):
                found.add(str(first.value))
    return found


def test_rules() -> None:
    (rows,) = tables("Rules")
    listed = [row["rule"].strip("`") for row in rows]
    assert len(listed) == len(set(listed))
    assert set(listed) == rules_in_source(ROOT / "relay")
    for row in rows:
        assert row["level"] in ("MUST", "DEP", "POL")
        assert row["reference"]


def test_what_refuses_an_element_is_a_rule() -> None:
    (rows,) = tables("Rules")
    rules = {row["rule"].strip("`") for row in rows}
    used: set[str] = set()
    for section in (*ENCODINGS, *(section for section, _, _ in MESSAGES)):
        used |= {word for row in tables(section)[0] for word in words(row)}
    assert used <= rules
    # Each rule of an encoding is at one.
    assert rules_in_source(ROOT / "relay" / "rfb" / "encodings") <= used


@pytest.fixture(scope="module")
def listed() -> dict[int, captures.Capture]:
    (rows,) = tables("Captures")
    return {int(row["capture"]): captures.load(row["name"]) for row in rows}


def cell(text: str) -> set[int]:
    return set() if text == "-" else numbers(text, to="-")


@pytest.mark.parametrize(
    ("section", "key"),
    [(section, key) for section, _, key in MESSAGES]
    + [(section, "rects") for section in (*ENCODINGS, SIGNALS)],
)
def test_captures(section: str, key: str, listed: dict[int, captures.Capture]) -> None:
    for row in tables(section)[0]:
        held = {n for n, c in listed.items() if str(number(row)) in c.expected.get(key, {})}
        assert cell(row["captures"]) == held, row["name"]
