"""Names and characters to X keysyms, the numbers of RFB's key events (RFC 6143, Section 7.5.4).

The numbers are those of the X11 protocol, appendix A "KEYSYM Encoding", and of keysymdef.h and
XF86keysym.h, which give them names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

COMBINATION_LIMIT = 200
"""Characters of one combination. The longest that makes sense has six keys."""

COMBINATIONS_LIMIT = 50
"""Combinations of one text; whoever wants more types, or asks again."""

NAME_LIMIT = 40
"""Characters of a name. The longest known has 27, and a text that holds what was asked for stays
readable."""

KEYSYM_LIMIT = 0x1FFF_FFFF
"""A keysym has 29 bits (X11 protocol, Section 3)."""

_UNICODE = 0x0100_0000
"""Added to the code point of what has no keysym of its own (X11 protocol, appendix A)."""

# Below, every row is the number of its first name and the names in order: "-" is a number without
# a name, "/" stands between names of one number.
_Rows = tuple[tuple[int, str], ...]

# Of single characters no name is needed.
_LATIN_1: _Rows = (
    (
        0x20,
        "space exclam quotedbl numbersign dollar percent ampersand apostrophe/quoteright parenleft"
        " parenright asterisk plus comma minus period slash",
    ),
    (0x3A, "colon semicolon less equal greater question at"),
    (0x5B, "bracketleft backslash bracketright asciicircum underscore grave/quoteleft"),
    (0x7B, "braceleft bar braceright asciitilde"),
    (
        0xA0,
        "nobreakspace exclamdown cent sterling currency yen brokenbar section diaeresis copyright"
        " ordfeminine guillemotleft/guillemetleft notsign hyphen registered macron degree plusminus"
        " twosuperior threesuperior acute mu paragraph periodcentered cedilla onesuperior"
        " masculine/ordmasculine guillemotright/guillemetright onequarter onehalf threequarters"
        " questiondown Agrave Aacute Acircumflex Atilde Adiaeresis Aring AE Ccedilla Egrave Eacute"
        " Ecircumflex Ediaeresis Igrave Iacute Icircumflex Idiaeresis ETH/Eth Ntilde Ograve Oacute"
        " Ocircumflex Otilde Odiaeresis multiply Oslash/Ooblique Ugrave Uacute Ucircumflex"
        " Udiaeresis Yacute THORN/Thorn ssharp agrave aacute acircumflex atilde adiaeresis aring ae"
        " ccedilla egrave eacute ecircumflex ediaeresis igrave iacute icircumflex idiaeresis eth"
        " ntilde ograve oacute ocircumflex otilde odiaeresis division oslash/ooblique ugrave uacute"
        " ucircumflex udiaeresis yacute thorn ydiaeresis",
    ),
    (0x20AC, "EuroSign"),
)

_FUNCTIONS: _Rows = (
    (0xFF08, "BackSpace Tab Linefeed Clear - Return"),
    (0xFF13, "Pause Scroll_Lock Sys_Req"),
    (0xFF1B, "Escape"),
    (
        0xFF20,
        "Multi_key Kanji Muhenkan Henkan/Henkan_Mode Romaji Hiragana Katakana Hiragana_Katakana"
        " Zenkaku Hankaku Zenkaku_Hankaku Touroku Massyo Kana_Lock Kana_Shift Eisu_Shift"
        " Eisu_toggle",
    ),
    (0xFF37, "Codeinput/Kanji_Bangou"),
    (0xFF3C, "SingleCandidate MultipleCandidate/Zen_Koho PreviousCandidate/Mae_Koho"),
    (0xFF50, "Home Left Up Right Down Prior/Page_Up Next/Page_Down End Begin"),
    (0xFF60, "Select Print Execute Insert - Undo Redo Menu Find Cancel Help Break"),
    (0xFF7E, "Mode_switch/script_switch/ISO_Group_Shift Num_Lock KP_Space"),
    (0xFF89, "KP_Tab"),
    (
        0xFF8D,
        "KP_Enter - - - KP_F1 KP_F2 KP_F3 KP_F4 KP_Home KP_Left KP_Up KP_Right KP_Down"
        " KP_Prior/KP_Page_Up KP_Next/KP_Page_Down KP_End KP_Begin KP_Insert KP_Delete",
    ),
    (
        0xFFAA,
        "KP_Multiply KP_Add KP_Separator KP_Subtract KP_Decimal KP_Divide KP_0 KP_1 KP_2 KP_3 KP_4"
        " KP_5 KP_6 KP_7 KP_8 KP_9",
    ),
    (
        0xFFBD,
        "KP_Equal F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 F11/L1 F12/L2 F13/L3 F14/L4 F15/L5 F16/L6 F17/L7"
        " F18/L8 F19/L9 F20/L10 F21/R1 F22/R2 F23/R3 F24/R4 F25/R5 F26/R6 F27/R7 F28/R8 F29/R9"
        " F30/R10 F31/R11 F32/R12 F33/R13 F34/R14 F35/R15 Shift_L Shift_R Control_L Control_R"
        " Caps_Lock Shift_Lock Meta_L Meta_R Alt_L Alt_R Super_L Super_R Hyper_L Hyper_R",
    ),
    (0xFFFF, "Delete"),
)

# What else X has in this block (AccessX, keys that move the pointer, Terminate_Server) is for its
# own settings; no program waits for it.
_ISO: _Rows = (
    (
        0xFE01,
        "ISO_Lock ISO_Level2_Latch ISO_Level3_Shift ISO_Level3_Latch ISO_Level3_Lock"
        " ISO_Group_Latch ISO_Group_Lock ISO_Next_Group ISO_Next_Group_Lock ISO_Prev_Group"
        " ISO_Prev_Group_Lock ISO_First_Group ISO_First_Group_Lock ISO_Last_Group"
        " ISO_Last_Group_Lock - ISO_Level5_Shift ISO_Level5_Latch ISO_Level5_Lock",
    ),
    (
        0xFE20,
        "ISO_Left_Tab ISO_Move_Line_Up ISO_Move_Line_Down ISO_Partial_Line_Up"
        " ISO_Partial_Line_Down ISO_Partial_Space_Left ISO_Partial_Space_Right ISO_Set_Margin_Left"
        " ISO_Set_Margin_Right ISO_Release_Margin_Left ISO_Release_Margin_Right"
        " ISO_Release_Both_Margins ISO_Fast_Cursor_Left ISO_Fast_Cursor_Right ISO_Fast_Cursor_Up"
        " ISO_Fast_Cursor_Down ISO_Continuous_Underline ISO_Discontinuous_Underline ISO_Emphasize"
        " ISO_Center_Object ISO_Enter",
    ),
)

# Each begins with "dead_".
_DEAD: _Rows = (
    (
        0xFE50,
        "grave acute circumflex tilde/perispomeni macron breve abovedot diaeresis abovering"
        " doubleacute caron cedilla ogonek iota voiced_sound semivoiced_sound belowdot hook horn"
        " stroke abovecomma/psili abovereversedcomma/dasia doublegrave belowring belowmacron"
        " belowcircumflex belowtilde belowbreve belowdiaeresis invertedbreve belowcomma currency",
    ),
    (0xFE80, "a A e E i I o O u U small_schwa capital_schwa greek"),
    (0xFE90, "lowline aboveverticalline belowverticalline longsolidusoverlay"),
)

# Each begins with "XF86". Those at 0x1008FE01, which switch consoles and break grabs, are not for
# programs either.
_MULTIMEDIA: _Rows = (
    (
        0x1008FF01,
        "ModeLock MonBrightnessUp MonBrightnessDown KbdLightOnOff KbdBrightnessUp"
        " KbdBrightnessDown MonBrightnessCycle",
    ),
    (
        0x1008FF10,
        "Standby AudioLowerVolume AudioMute AudioRaiseVolume AudioPlay AudioStop AudioPrev"
        " AudioNext HomePage Mail Start Search AudioRecord Calculator Memo ToDoList Calendar"
        " PowerDown ContrastAdjust RockerUp RockerDown RockerEnter Back Forward Stop Refresh"
        " PowerOff WakeUp Eject ScreenSaver WWW Sleep Favorites AudioPause AudioMedia MyComputer"
        " VendorHome LightBulb Shop History OpenURL AddFavorite HotLinks BrightnessAdjust Finance"
        " Community AudioRewind BackForward Launch0 Launch1 Launch2 Launch3 Launch4 Launch5"
        " Launch6 Launch7 Launch8 Launch9 LaunchA LaunchB LaunchC LaunchD LaunchE LaunchF"
        " ApplicationLeft ApplicationRight Book CD Calculater Clear Close Copy Cut Display DOS"
        " Documents Excel Explorer Game Go iTouch LogOff Market Meeting - MenuKB MenuPB MySites"
        " New News OfficeHome Open Option Paste Phone - Q - Reply Reload RotateWindows RotationPB"
        " RotationKB Save ScrollUp ScrollDown ScrollClick Send Spell SplitScreen Support TaskPane"
        " Terminal Tools Travel - UserPB User1KB User2KB Video WheelButton Word Xfer ZoomIn"
        " ZoomOut Away Messenger WebCam MailForward Pictures Music Battery Bluetooth WLAN UWB"
        " AudioForward AudioRepeat AudioRandomPlay Subtitle AudioCycleTrack CycleAngle FrameBack"
        " FrameForward Time Select View TopMenu Red Green Yellow Blue Suspend Hibernate"
        " TouchpadToggle",
    ),
    (
        0x1008FFB0,
        "TouchpadOn TouchpadOff AudioMicMute Keyboard WWAN RFKill AudioPreset RotationLockToggle"
        " FullScreen",
    ),
)

# What language models and other tools call a key, folded as `_fold` does it. That a name is
# written with or without "_" and in which case makes no difference and is not repeated here.
_ALIASES = {
    "Return": "enter newline",
    "Escape": "esc",
    "BackSpace": "bksp bs",
    "Delete": "del",
    "Insert": "ins",
    "space": "spacebar",
    "Prior": "pgup",
    "Next": "pgdn pgdown",
    "Up": "arrowup uparrow",
    "Down": "arrowdown downarrow",
    "Left": "arrowleft leftarrow",
    "Right": "arrowright rightarrow",
    "Print": "printscreen printscr prtscr prtscn prtsc snapshot",
    "Caps_Lock": "caps",
    "Menu": "contextmenu apps",
    "ISO_Level3_Shift": "altgr altgraph",
    "minus": "dash",
    "equal": "equals",
    "period": "dot",
    "slash": "forwardslash",
    "grave": "backtick backquote",
    "apostrophe": "quote singlequote",
    "quotedbl": "doublequote",
    "asciitilde": "tilde",
    "asciicircum": "caret",
    "bar": "pipe",
    "numbersign": "hash",
    "exclam": "exclamation exclamationmark",
    "question": "questionmark",
    "asterisk": "star",
    "bracketleft": "leftbracket",
    "bracketright": "rightbracket",
    "XF86AudioRaiseVolume": "volumeup audiovolumeup",
    "XF86AudioLowerVolume": "volumedown audiovolumedown",
    "XF86AudioMute": "mute volumemute audiovolumemute",
    "XF86AudioPlay": "playpause mediaplaypause",
    "XF86AudioStop": "mediastop",
    "XF86AudioNext": "nexttrack mediatracknext",
    "XF86AudioPrev": "prevtrack mediatrackprevious",
}

# A Meta key is what PC keyboards and browsers call the key between Control and Alt: X's Super. Its
# own Meta_L is beside Alt, and has that name.
_MODIFIERS = {
    "Shift": "shift",
    "Control": "control ctrl",
    "Alt": "alt option opt",
    "Super": "super command cmd meta win windows",
    "Hyper": "hyper",
}
_SIDES = {
    "_L": ("{}", "left{}", "l{}", "{}left", "{}l"),
    "_R": ("right{}", "r{}", "{}right", "{}r"),
}

_TYPED = {
    "\n": "Return",
    "\r": "Return",
    "\t": "Tab",
    "\b": "BackSpace",
    "\x1b": "Escape",
    "\x7f": "Delete",
}

# A US keyboard in the order of its XT scancodes, by what a key gives without and with Shift.
_CHARACTER_KEYS = (
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1E, "asdfghjkl;'`", 'ASDFGHJKL:"~'),
    (0x2B, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
)
# Print and Pause send several bytes on an XT keyboard; the codes are those that noVNC, TigerVNC
# and QEMU have for them.
_NAMED_KEYS: _Rows = (
    (0x01, "Escape"),
    (0x0E, "BackSpace Tab/ISO_Left_Tab"),
    (0x1C, "Return Control_L"),
    (0x2A, "Shift_L"),
    (
        0x36,
        "Shift_R KP_Multiply Alt_L space Caps_Lock F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 Num_Lock"
        " Scroll_Lock KP_7/KP_Home KP_8/KP_Up KP_9/KP_Prior KP_Subtract KP_4/KP_Left KP_5/KP_Begin"
        " KP_6/KP_Right KP_Add KP_1/KP_End KP_2/KP_Down KP_3/KP_Next KP_0/KP_Insert"
        " KP_Decimal/KP_Delete Print/Sys_Req",
    ),
    (0x57, "F11 F12 KP_Equal"),
    (0x7E, "KP_Separator"),
    (0x9C, "KP_Enter Control_R"),
    (0xB5, "KP_Divide"),
    (0xB8, "Alt_R/ISO_Level3_Shift"),
    (0xC6, "Pause/Break Home Up Prior - Left - Right - End Down Next Insert Delete"),
    (0xDB, "Super_L Super_R Menu"),
)


def _numbered(rows: _Rows, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The names of some rows with their numbers."""
    for first, names in rows:
        for number, same in enumerate(names.split(), first):
            if same != "-":
                yield from ((prefix + name, number) for name in same.split("/"))


def _fold(name: str) -> str:
    """What is left of a name where nobody cares how it is written: "Page_Up", "pageup"."""
    return name.lower().replace("_", "").replace("-", "")


def _folded() -> dict[str, list[str]]:
    """Of every folded name and alias what it may mean: X's names come first, and several are there
    where case tells them apart ("Agrave" and "agrave")."""
    folded: dict[str, list[str]] = {}
    for name in _KEYSYMS:
        folded.setdefault(_fold(name), []).append(name)
    for name, aliases in _ALIASES.items():
        for alias in aliases.split():
            folded.setdefault(alias, [name])
    for name, words in _MODIFIERS.items():
        for side, forms in _SIDES.items():
            for word in words.split():
                for form in forms:
                    folded.setdefault(form.format(word), [name + side])
    for name in _KEYSYMS:
        if name.startswith("KP_"):
            folded.setdefault("numpad" + _fold(name[3:]), [name])
    return folded


_KEYSYMS = {
    **dict(_numbered(_LATIN_1 + _FUNCTIONS + _ISO)),
    **dict(_numbered(_DEAD, "dead_")),
    **dict(_numbered(_MULTIMEDIA, "XF86")),
}
_FOLDED = _folded()
_HEXADECIMAL = re.compile(r"(0x|u)([0-9a-f]{1,8})", re.IGNORECASE)
_SPACED_PLUS = re.compile(r"(?<=\S)\s+\+\s+(?=\S)")
_SHIFTS = {_KEYSYMS["Shift_L"], _KEYSYMS["Shift_R"]}
_UNSHIFTED = {ord(letter.upper()): ord(letter) for letter in "abcdefghijklmnopqrstuvwxyz"}

SHIFTED: dict[int, int] = {
    ord(plain): ord(shifted)
    for _, *sides in _CHARACTER_KEYS
    for plain, shifted in zip(*sides, strict=True)
}
"""What the keys of a US keyboard give with Shift: keysyms by the keysym without."""

KEYCODES: dict[int, int] = {
    **{
        ord(character): keycode
        for first, *sides in _CHARACTER_KEYS
        for side in sides
        for keycode, character in enumerate(side, first)
    },
    **{_KEYSYMS[name]: keycode for name, keycode in _numbered(_NAMED_KEYS)},
}
"""XT keycodes of a US keyboard by keysym, for the QEMU Extended Key Event (community
specification, QEMU Extended Key Event Message): a scancode as it is, one behind 0xe0 with its
highest bit set. A desktop that takes keycodes sees the key alone: whoever wants one of `SHIFTED`'s
values presses Shift as well."""


def keysym_of(character: str) -> int:
    """The keysym that types a Unicode character (X11 protocol, appendix A).

    Latin-1 is itself, everything else 0x01000000 and its code point; a newline, tab, backspace,
    escape or delete is the key. Raises ValueError for other control characters, for surrogates
    and for anything but one character.
    """
    if len(character) != 1:
        raise ValueError(f"one character is typed at a time, not {len(character)}")
    if character in _TYPED:
        return _KEYSYMS[_TYPED[character]]
    code = ord(character)
    if code < 0x20 or 0x7F <= code < 0xA0:
        raise ValueError(f"U+{code:04X} is a control character, which no key types")
    if 0xD800 <= code <= 0xDFFF:
        raise ValueError(f"U+{code:04X} is half of a surrogate pair and no character")
    return code if code < 0x100 else _UNICODE | code


def keysym_named(name: str) -> int:
    """The keysym of a key's name.

    Names are X's ("Return", "KP_7", "XF86AudioMute", "dead_acute"), single characters, "U20AC"
    for a character by its code point in hexadecimal, "0xff0d" for a keysym itself, and words that
    others have for keys ("enter", "cmd", "pgup"). X's names and the words are found whatever their
    case, underscores and hyphens, unless two keys differ in nothing else ("agrave", "Agrave").

    Raises ValueError, with the closest known names in its text.
    """
    if not name:
        raise ValueError("a key without a name")
    if len(name) > NAME_LIMIT:
        raise ValueError(f"no key has a name of {len(name)} characters")
    if len(name) == 1:
        return keysym_of(name)
    if name in _KEYSYMS:
        return _KEYSYMS[name]
    if number := _HEXADECIMAL.fullmatch(name):
        return _numeric(name, number[1], int(number[2], 16))
    meant = _FOLDED.get(_fold(name), [])
    keysyms = {_KEYSYMS[x_name] for x_name in meant}
    if len(keysyms) == 1:
        return keysyms.pop()
    raise ValueError(f"no key is called {name!r}{_closest(name, meant)}")


def combination(text: str) -> list[int]:
    """The keysyms of a combination such as "ctrl+shift+t", in the order to press them.

    "+" alone and at the end, as in "ctrl++", is the plus key. Where there are several keys, a
    letter is a key and not a character: without Shift it is small ("ctrl+C" is ctrl+c), and
    behind Shift every key is what a US keyboard then gives ("shift+t" ends with the keysym of T).
    For a keysym that Shift does not give, a desktop takes Shift away (RFC 6143, 7.5.4: it is
    a hint), and the program sees ctrl+t. TigerVNC's presses Caps Lock instead for a letter in the
    wrong case, unless the viewer knows LedState, and leaves it on.

    Raises ValueError for an empty part, an unknown name and more than COMBINATION_LIMIT
    characters.
    """
    if len(text) > COMBINATION_LIMIT:
        raise ValueError(f"a combination has at most {COMBINATION_LIMIT} characters: {len(text)}")
    joined = _SPACED_PLUS.sub("+", text)
    if joined == "+":
        names = ["+"]
    elif joined.endswith("++"):
        names = [*joined[:-2].split("+"), "+"]
    else:
        names = joined.split("+")
    if "" in names:
        raise ValueError(f"{text!r} has an empty part; the + key is also called plus")
    keysyms = [keysym_named(name) for name in names]
    if len(keysyms) == 1:
        return keysyms
    given = _UNSHIFTED
    pressed = []
    for keysym in keysyms:
        pressed.append(given.get(keysym, keysym))
        if keysym in _SHIFTS:
            given = SHIFTED
    return pressed


def combinations(text: str) -> list[list[int]]:
    """Several combinations with spaces between, as xdotool's older documentation has them:
    "ctrl+a Delete". "ctrl + a" is one all the same, and a single character, which may be a space,
    is its key.

    Raises ValueError as `combination` does, for no key at all and for more than
    COMBINATIONS_LIMIT.
    """
    if len(text) == 1:
        return [[keysym_of(text)]]
    if len(text) > COMBINATIONS_LIMIT * (COMBINATION_LIMIT + 1):
        raise ValueError(f"{len(text)} characters are no combinations of keys")
    parts = _SPACED_PLUS.sub("+", text).split()
    if not parts:
        raise ValueError("no key is named")
    if len(parts) > COMBINATIONS_LIMIT:
        raise ValueError(f"at most {COMBINATIONS_LIMIT} combinations at a time: {len(parts)}")
    return [combination(part) for part in parts]


def _numeric(name: str, kind: str, number: int) -> int:
    if kind in "uU":
        if number > 0x10FFFF:
            raise ValueError(f"{name!r} is beyond the last character, U10FFFF")
        return keysym_of(chr(number))
    if not 0 < number <= KEYSYM_LIMIT:
        raise ValueError(f"{name!r} is no keysym: they go from 0x1 to {KEYSYM_LIMIT:#x}")
    return number


def _closest(name: str, meant: list[str]) -> str:
    """How the text of an error goes on: with what the name may mean."""
    if not meant:
        folded = difflib.get_close_matches(_fold(name), _FOLDED)
        meant = [known for key in folded for known in _FOLDED[key]]
    names = list(dict.fromkeys(meant))
    return f"; close to it are {', '.join(names)}" if names else ""
