"""Names of keys, against python-xlib's tables, the X11 protocol, real viewers and noVNC's table."""

from __future__ import annotations

import json
import lzma
import re
import struct
from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from Xlib.keysymdef import latin1, miscellany, xf86, xkb

from relay.keysyms import (
    COMBINATION_LIMIT,
    COMBINATIONS_LIMIT,
    KEYCODES,
    KEYSYM_LIMIT,
    NAME_LIMIT,
    SHIFTED,
    combination,
    combinations,
    keysym_named,
    keysym_of,
)
from tests.labs import captures
from tests.labs.missing import missing
from tests.labs.places import ROOT

NOVNC = ROOT / "api/viewer/novnc/core/input/xtscancodes.js"

CONTROL, SHIFT, ALT, SUPER = 0xFFE3, 0xFFE1, 0xFFE9, 0xFFEB


def table(module: ModuleType) -> dict[str, int]:
    """python-xlib's names in one of keysymdef.h's groups."""
    return {
        name.removeprefix("XK_"): keysym
        for name, keysym in vars(module).items()
        if name.startswith("XK_")
    }


# python-xlib puts an underscore behind XF86, and has one name with the prefix twice. What is for
# the X server itself is not known here: consoles, grabs, video modes.
XF86 = {
    "XF86" + name.replace("XF86", "").removeprefix("_"): keysym
    for name, keysym in table(xf86).items()
    if keysym >= 0x1008FF00
}
ISO_AND_DEAD = {
    name: keysym for name, keysym in table(xkb).items() if name.startswith(("ISO_", "dead_"))
}
X_NAMES = table(latin1) | table(miscellany) | ISO_AND_DEAD | XF86


@pytest.mark.parametrize(("name", "keysym"), X_NAMES.items())
def test_names_mean_what_x_says(name: str, keysym: int) -> None:
    assert keysym_named(name) == keysym


def test_every_group_was_compared() -> None:
    assert [len(t) > 100 for t in (table(latin1), table(miscellany), XF86)] == [True] * 3
    assert len(ISO_AND_DEAD) > 50


# Of keysymdef.h and XF86keysym.h of xorgproto 2022.1 and 2023.2; python-xlib does not have them.
@pytest.mark.parametrize(
    ("name", "keysym"),
    [
        ("Codeinput", 0xFF37),
        ("Kanji_Bangou", 0xFF37),
        ("ISO_Level5_Shift", 0xFE11),
        ("ISO_Level5_Lock", 0xFE13),
        ("dead_perispomeni", 0xFE53),
        ("dead_hook", 0xFE61),
        ("dead_psili", 0xFE64),
        ("dead_dasia", 0xFE65),
        ("dead_currency", 0xFE6F),
        ("dead_a", 0xFE80),
        ("dead_A", 0xFE81),
        ("dead_greek", 0xFE8C),
        ("dead_longsolidusoverlay", 0xFE93),
        ("Oslash", 0xD8),
        ("ooblique", 0xF8),
        ("guillemetleft", 0xAB),
        ("ordmasculine", 0xBA),
        ("guillemetright", 0xBB),
        ("EuroSign", 0x20AC),
    ],
)
def test_newer_names(name: str, keysym: int) -> None:
    assert keysym_named(name) == keysym


@pytest.mark.parametrize("name", ["Terminate_Server", "XF86Switch_VT_1", "XF86Ungrab"])
def test_keys_of_the_x_server_have_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="no key is called"):
        keysym_named(name)


@given(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
def test_ascii_is_itself(character: str) -> None:
    assert keysym_of(character) == keysym_named(character) == ord(character)


@given(st.characters(min_codepoint=0xA0, max_codepoint=0xFF))
@example("\xa0")
@example("\xff")
def test_latin_1_is_itself(character: str) -> None:
    assert keysym_of(character) == ord(character)


@given(st.characters(min_codepoint=0x100, exclude_categories=["Cs"]))
@example("\u0100")
@example("\U0010ffff")
def test_other_characters_have_an_offset(character: str) -> None:
    """X11 protocol, appendix A: from 0x01000100 to 0x0110ffff."""
    assert keysym_of(character) == 0x01000000 + ord(character)


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\n", "Return"),
        ("\r", "Return"),
        ("\t", "Tab"),
        ("\b", "BackSpace"),
        ("\x1b", "Escape"),
        ("\x7f", "Delete"),
    ],
)
def test_characters_that_are_keys(character: str, name: str) -> None:
    assert keysym_of(character) == table(miscellany)[name]


@pytest.mark.parametrize(
    ("character", "text"),
    [
        ("\0", "U+0000 is a control character"),
        ("\a", "U+0007 is a control character"),
        ("\x1f", "U+001F is a control character"),
        ("\x80", "U+0080 is a control character"),
        ("\x9f", "U+009F is a control character"),
        ("\ud800", "U+D800 is half of a surrogate pair"),
        ("\udfff", "U+DFFF is half of a surrogate pair"),
        ("", "not 0"),
        ("ab", "not 2"),
    ],
)
def test_what_cannot_be_typed(character: str, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        keysym_of(character)


# Words that models and other tools write; the right side is X's name.
WORDS = {
    "Return": "enter Enter ENTER RETURN return newline",
    "Escape": "esc ESC escape",
    "Delete": "del DEL delete",
    "Insert": "ins",
    "BackSpace": "backspace BACKSPACE Backspace back_space bksp",
    "Tab": "tab TAB",
    "space": "spacebar SPACE Space",
    "Prior": "pageup page_up PAGE_UP PageUp page-up pgup PgUp prior",
    "Next": "pagedown page_down PAGEDOWN PageDown pgdn pgdown",
    "Up": "arrowup ArrowUp ARROWUP arrow_up up up_arrow",
    "Down": "arrowdown down",
    "Left": "arrowleft left",
    "Right": "arrowright right",
    "Home": "home HOME",
    "Control_L": "ctrl Ctrl CTRL control CONTROL lctrl ctrl_l ControlLeft control_l",
    "Control_R": "ctrl_r rctrl ControlRight right_ctrl",
    "Shift_L": "shift SHIFT lshift shift_l left_shift",
    "Shift_R": "rshift ShiftRight",
    "Alt_L": "alt ALT option OPTION AltLeft",
    "Alt_R": "ralt AltRight",
    "Super_L": "super cmd CMD command meta META win windows MetaLeft super_l",
    "Super_R": "rwin MetaRight",
    "Meta_L": "meta_l",
    "ISO_Level3_Shift": "altgr AltGraph",
    "Caps_Lock": "capslock CAPS_LOCK caps-lock CapsLock",
    "Num_Lock": "numlock num_lock",
    "Scroll_Lock": "scrolllock",
    "Print": "printscreen PrintScreen print_screen prtsc",
    "Menu": "contextmenu ContextMenu menu",
    "KP_0": "kp0 numpad0 Numpad0",
    "KP_Enter": "kp_enter NumpadEnter numpad_enter",
    "KP_Add": "numpad_add",
    "F5": "f5",
    "F12": "f12",
    "plus": "Plus PLUS",
    "minus": "MINUS dash",
    "equal": "equals",
    "period": "dot",
    "grave": "backquote Backquote backtick",
    "bracketleft": "BracketLeft leftbracket",
    "XF86AudioMute": "xf86audiomute XF86_AudioMute mute",
    "XF86AudioRaiseVolume": "volumeup volume_up AudioVolumeUp",
}


@pytest.mark.parametrize(
    ("word", "name"), [(word, name) for name, words in WORDS.items() for word in words.split()]
)
def test_words_for_keys(word: str, name: str) -> None:
    assert keysym_named(word) == X_NAMES[name]


def test_case_matters_where_two_keys_differ_in_it() -> None:
    assert (keysym_named("a"), keysym_named("A")) == (0x61, 0x41)
    assert (keysym_named("agrave"), keysym_named("Agrave")) == (0xE0, 0xC0)
    with pytest.raises(ValueError, match=r"'AGRAVE'; close to it are Agrave, agrave$"):
        keysym_named("AGRAVE")
    # Three spellings, two letters; where all spellings are one key, any other will do.
    with pytest.raises(ValueError, match=r"close to it are ETH, Eth, eth$"):
        keysym_named("eTH")
    assert keysym_named("SSHARP") == 0xDF


@pytest.mark.parametrize(
    ("name", "keysym"),
    [
        ("U20AC", 0x010020AC),
        ("u20ac", 0x010020AC),
        ("U0041", 0x41),
        ("UE9", 0xE9),
        ("U1F600", 0x0101F600),
        ("U10FFFF", 0x0110FFFF),
        ("0xff0d", 0xFF0D),
        ("0XFF0D", 0xFF0D),
        ("0x1", 1),
        ("0x1fffffff", 0x1FFFFFFF),
    ],
)
def test_numbers(name: str, keysym: int) -> None:
    assert keysym_named(name) == keysym


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("U110000", "beyond the last character"),
        ("UD800", "half of a surrogate pair"),
        ("U0007", "control character"),
        ("0x0", "no keysym"),
        ("0x20000000", "no keysym"),
        ("0xffffffff", "no keysym"),
        ("0x", "no key is called '0x'"),
        ("0x123456789", "no key is called"),
        ("0xfg", "no key is called"),
        ("", "without a name"),
        ("\a", "control character"),
        ("Retrun", r"no key is called 'Retrun'; close to it are Return\b"),
        ("pagupe", r"close to it are Page_Up, Prior\b"),
        ("XF86AudioMutee", r"close to it are XF86AudioMute\b"),
        ("zzzz", "no key is called 'zzzz'$"),
        ("_-_", "no key is called '_-_'$"),
        (" a", "no key is called ' a'"),
        ("x" * NAME_LIMIT, "no key is called"),
        ("x" * (NAME_LIMIT + 1), "no key has a name of 41 characters$"),
        ("\udc80\udc80", r"no key is called '\\udc80\\udc80'$"),
    ],
)
def test_unknown_names(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        keysym_named(name)


@pytest.mark.parametrize(
    ("text", "keysyms"),
    [
        ("a", [0x61]),
        ("A", [0x41]),
        ("+", [0x2B]),
        ("plus", [0x2B]),
        ("super", [SUPER]),
        ("Return", [0xFF0D]),
        (" ", [0x20]),
        ("ctrl+a", [CONTROL, 0x61]),
        ("alt+Tab", [ALT, 0xFF09]),
        ("ctrl+alt+Delete", [CONTROL, ALT, 0xFFFF]),
        ("ctrl++", [CONTROL, 0x2B]),
        ("ctrl+plus", [CONTROL, 0x2B]),
        ("ctrl+minus", [CONTROL, 0x2D]),
        ("ctrl+-", [CONTROL, 0x2D]),
        ("ctrl + c", [CONTROL, 0x63]),
        ("ctrl + +", [CONTROL, 0x2B]),
        ("Ctrl+U20AC", [CONTROL, 0x010020AC]),
        ("alt+0xffc1", [ALT, 0xFFC1]),
        # A capital is how a key is labelled: nobody presses Shift for ctrl+C.
        ("ctrl+C", [CONTROL, 0x63]),
        ("CTRL+L", [CONTROL, 0x6C]),
        # RFC 6143, Section 7.5.4: with Shift down a keysym is what the key gives with it.
        ("shift+a", [SHIFT, 0x41]),
        ("shift+A", [SHIFT, 0x41]),
        ("ctrl+shift+t", [CONTROL, SHIFT, 0x54]),
        ("ctrl+shift+T", [CONTROL, SHIFT, 0x54]),
        ("shift_r+1", [0xFFE2, 0x21]),
        ("cmd+shift+4", [SUPER, SHIFT, 0x24]),
        ("shift+minus", [SHIFT, 0x5F]),
        ("ctrl+shift+equal", [CONTROL, SHIFT, 0x2B]),
        ("ctrl+shift++", [CONTROL, SHIFT, 0x2B]),
        ("shift+slash", [SHIFT, 0x3F]),
        # The same section: a shifted Tab, not ISO_Left_Tab.
        ("shift+Tab", [SHIFT, 0xFF09]),
        ("shift+F10", [SHIFT, 0xFFC7]),
        ("shift+Insert", [SHIFT, 0xFF63]),
        ("T+shift", [0x74, SHIFT]),
        ("ctrl+é", [CONTROL, 0xE9]),
    ],
)
def test_combinations_of_keys(text: str, keysyms: list[int]) -> None:
    assert combination(text) == keysyms


@pytest.mark.parametrize("text", ["", "++", "+++", "ctrl+", "+a", "ctrl++a", "ctrl+++", "a++b"])
def test_empty_parts(text: str) -> None:
    with pytest.raises(ValueError, match="has an empty part; the \\+ key is also called plus"):
        combination(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ctrl+Retrun", "no key is called 'Retrun'; close to it are Return"),
        ("crtl+a", "no key is called 'crtl'; close to it are Control_L"),
        ("ctrl+a Delete", "no key is called 'a Delete'"),
        ("a" * (COMBINATION_LIMIT + 1), "at most 200 characters: 201"),
    ],
)
def test_what_is_no_combination(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        combination(text)


def test_a_combination_of_200_characters() -> None:
    assert combination("a+" * 99 + "F5") == [0x61] * 99 + [0xFFC2]


@pytest.mark.parametrize(
    ("text", "keysyms"),
    [
        ("ctrl+a Delete", [[CONTROL, 0x61], [0xFFFF]]),
        ("Down Down Return", [[0xFF54], [0xFF54], [0xFF0D]]),
        ("  ctrl+c\tctrl+v\n", [[CONTROL, 0x63], [CONTROL, 0x76]]),
        (" ", [[0x20]]),
        ("\n", [[0xFF0D]]),
        ("+", [[0x2B]]),
        ("ctrl++ +", [[CONTROL, 0x2B], [0x2B]]),
        ("ctrl + shift + t Tab", [[CONTROL, SHIFT, 0x54], [0xFF09]]),
        ("a " * COMBINATIONS_LIMIT, [[0x61]] * COMBINATIONS_LIMIT),
    ],
)
def test_several_combinations(text: str, keysyms: list[list[int]]) -> None:
    assert combinations(text) == keysyms


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no key is named"),
        ("  ", "no key is named"),
        ("a " * (COMBINATIONS_LIMIT + 1), "at most 50 combinations at a time: 51"),
        ("a" * 1_000_000, "1000000 characters"),
        (" " * 1_000_000, "1000000 characters"),
        ("a " + "b" * (COMBINATION_LIMIT + 1), "at most 200 characters: 201"),
        ("ctrl+a ctrl+", "'ctrl+' has an empty part"),
        ("\a", "control character"),
    ],
)
def test_what_are_no_combinations(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        combinations(text)


@given(st.text(st.sampled_from("ctrl+shift Uu0x_-aAé\n\ud800"), max_size=300) | st.text())
def test_any_text_gives_keysyms_or_a_reason(text: str) -> None:
    try:
        pressed = combinations(text)
    except ValueError:
        return
    assert pressed
    assert all(0 < keysym <= KEYSYM_LIMIT for keysyms in pressed for keysym in keysyms)


def test_keycodes_of_the_specification() -> None:
    """Its examples (community specification, QEMU Extended Key Event Message)."""
    assert KEYCODES[0x41] == KEYCODES[0x61] == 0x1E
    assert KEYCODES[0xFF53] == 0xCD


@pytest.mark.parametrize(
    "name", ["qemu-novnc", "qemu-vncviewer-zrle", "tiger-novnc-basic", "tiger-vncviewer-default"]
)
def test_keycodes_are_those_of_real_viewers(name: str) -> None:
    """Of noVNC and of TigerVNC's viewer, with a US keyboard."""
    capture = captures.load(name)
    stream = capture.stream(captures.FROM_VIEWER)
    lines = lzma.decompress((captures.TRACES / f"{name}.detail.jsonl.xz").read_bytes())
    sent = {}
    for line in map(json.loads, lines.splitlines()):
        if line.get("d") == "c" and line.get("msg") == 255:
            kind, _, keysym, keycode = struct.unpack_from(">xBHII", stream, line["off"])
            assert kind == 0
            sent[keysym] = keycode
    assert sent
    assert sent == {keysym: KEYCODES.get(keysym) for keysym in sent}


def pairs(text: str) -> dict[str, str]:
    return dict(pair.split(":") for pair in text.split())


# What noVNC and browsers call the keys of a US keyboard, by what they give.
BROWSERS_CODES = {
    **{name: f"Key{name.upper()}" for name in "abcdefghijklmnopqrstuvwxyz"},
    **{name: f"Digit{name}" for name in "0123456789"},
    **{f"F{n}": f"F{n}" for n in range(1, 13)},
    **{f"KP_{n}": f"Numpad{n}" for n in range(10)},
    **{f"KP_{n}": f"Numpad{n}" for n in ("Add", "Decimal", "Divide", "Enter", "Equal")},
    **{f"KP_{n}": f"Numpad{n}" for n in ("Multiply", "Subtract")},
    **pairs(
        "Escape:Escape BackSpace:Backspace Tab:Tab Return:Enter space:Space Insert:Insert"
        " Delete:Delete Home:Home End:End Prior:PageUp Next:PageDown Up:ArrowUp Down:ArrowDown"
        " Left:ArrowLeft Right:ArrowRight Shift_L:ShiftLeft Shift_R:ShiftRight"
        " Control_L:ControlLeft Control_R:ControlRight Alt_L:AltLeft Alt_R:AltRight"
        " Super_L:MetaLeft Super_R:MetaRight Menu:ContextMenu Caps_Lock:CapsLock Num_Lock:NumLock"
        " Scroll_Lock:ScrollLock Print:PrintScreen Pause:Pause KP_Separator:NumpadComma"
        " minus:Minus equal:Equal bracketleft:BracketLeft bracketright:BracketRight"
        " semicolon:Semicolon apostrophe:Quote grave:Backquote backslash:Backslash comma:Comma"
        " period:Period slash:Slash"
    ),
}

# The other keysym of a key (xkeyboard-config, symbols "us", "pc" and "keypad").
SHIFTED_NAMES = pairs(
    "1:exclam 2:at 3:numbersign 4:dollar 5:percent 6:asciicircum 7:ampersand 8:asterisk 9:parenleft"
    " 0:parenright minus:underscore equal:plus bracketleft:braceleft bracketright:braceright"
    " semicolon:colon apostrophe:quotedbl grave:asciitilde backslash:bar comma:less period:greater"
    " slash:question"
) | {name: name.upper() for name in "abcdefghijklmnopqrstuvwxyz"}
OTHER_NAMES = pairs(
    "KP_7:KP_Home KP_8:KP_Up KP_9:KP_Prior KP_4:KP_Left KP_5:KP_Begin KP_6:KP_Right KP_1:KP_End"
    " KP_2:KP_Down KP_3:KP_Next KP_0:KP_Insert KP_Decimal:KP_Delete Print:Sys_Req Pause:Break"
    " Tab:ISO_Left_Tab Alt_R:ISO_Level3_Shift"
)


def test_keycodes_are_novncs() -> None:
    if not NOVNC.exists():
        missing("noVNC is not there; make novnc fetches it")
    found = re.findall(r'^\s+"?(\w+)"?: (0x[0-9a-f]+),', NOVNC.read_text(), re.MULTILINE)
    scancodes = {code: int(scancode, 16) for code, scancode in found}
    expected = {}
    for name, code in BROWSERS_CODES.items():
        scancode = scancodes[code]
        prefix, byte = divmod(scancode, 0x100)
        assert prefix in (0, 0xE0)
        expected[X_NAMES[name]] = byte | (0x80 if prefix else 0)
    for names in (SHIFTED_NAMES, OTHER_NAMES):
        for name, other in names.items():
            expected[X_NAMES[other]] = expected[X_NAMES[name]]
    assert expected == KEYCODES


def test_shift_gives_the_other_keysym_of_the_same_key() -> None:
    expected = {X_NAMES[plain]: X_NAMES[shifted] for plain, shifted in SHIFTED_NAMES.items()}
    assert expected == SHIFTED
