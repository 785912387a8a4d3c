from __future__ import annotations

import unicodedata

import pytest

from relay.controls import escaped, refuse_controls

# From the Unicode data: control characters, what turns the direction of text, and what ends lines.
BAD = [
    chr(code)
    for code in range(0x110000)
    if unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp")
    or unicodedata.bidirectional(chr(code)) in ("LRE", "RLE", "LRO", "RLO", "PDF")
    or unicodedata.bidirectional(chr(code)) in ("LRI", "RLI", "FSI", "PDI")
    or code in (0x200E, 0x200F, 0x061C)
]
GOOD = [
    "",
    "plain",
    "Ærøskøbing",
    "日本語",
    "שלום",
    "👩\u200d💻",
    "\u0645\u06cc\u200c\u062e",
    "a\u00a0b",
    "\\x1b",
]


def test_what_does_something_is_shown_as_what_it_is() -> None:
    for bad in BAD:
        shown = escaped(f"a{bad}b")
        assert shown.isascii()
        assert shown.isprintable()
        assert shown.startswith("a\\")
        with pytest.raises(ValueError, match=r"^a title has no control characters"):
            refuse_controls(f"a{bad}b", "a title")
    assert escaped("a\x1b[2J\u202e\n") == "a\\x1b[2J\\u202e\\n"


def test_other_text_stays() -> None:
    for good in GOOD:
        assert escaped(good) == good
        refuse_controls(good, "a title")
