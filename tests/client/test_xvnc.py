"""The RFB client on a real Xvnc: it shows what X does (xwd), and what it types arrives."""

from __future__ import annotations

import base64
import io
import random
import re
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from PIL import Image

import relay
from relay.client import connection
from relay.client.desktop import RGBX, Desktop
from relay.computer import Computer
from relay.desktops import RunningDesktop
from relay.rfb.pixel_format import PixelFormat
from relay.rfb.pixels import DECODERS, Array, Canvas, Decoder, Steps
from tests.labs.desktop_processes import desktops_home, needs_xvnc, until
from tests.labs.places import README
from tests.labs.xvnc import HEIGHT, WIDTH, Window, on, window, xvnc

__all__ = ["desktops_home", "window", "xvnc"]  # the fixtures

pytestmark = [
    needs_xvnc,
    pytest.mark.skipif(shutil.which("xwd") is None, reason="xwd is not installed (x11-apps)"),
]

PIXELS = {
    "raw": 0,
    "rre": 2,
    "hextile": 5,
    "tight": 7,
    "tight with JPEG": 7,
    "zrle": 16,
}
LOSSLESS = -247
"""A level of compression, in the place of one of JPEG's quality: TigerVNC's server then has no
JPEG in Tight."""

FORMATS = {
    "rgbx": RGBX,
    "bgrx": PixelFormat(32, 24, False, True, 255, 255, 255, 16, 8, 0),
    "big endian": PixelFormat(32, 24, True, True, 255, 255, 255, 16, 8, 0),
    "high bytes": PixelFormat(32, 24, False, True, 255, 255, 255, 24, 16, 8),
    "565": PixelFormat(16, 16, False, True, 31, 63, 31, 11, 5, 0),
    "332": PixelFormat(8, 8, False, True, 7, 7, 3, 0, 3, 6),
}


async def shown(environment: Mapping[str, str]) -> Array:
    """What X says is on the root window, as RGB (XWDFile.h has the header's 25 words)."""
    command = ["xwd", "-root", "-silent"]
    done = await trio.run_process(command, env=environment, capture_stdout=True)
    head = struct.unpack_from(">25I", done.stdout)
    head_bytes, width, height, line_bytes, colours = (head[n] for n in (0, 4, 5, 12, 19))
    assert (head[11], head[14:17]) == (32, (0xFF0000, 0xFF00, 0xFF))
    assert head[7] == 0  # least significant byte first
    rows = np.frombuffer(done.stdout, np.uint8, offset=head_bytes + 12 * colours)
    pixels = rows.reshape(height, line_bytes)[:, : 4 * width].reshape(height, width, 4)
    return pixels[..., 2::-1]


def noise(seed: int) -> bytes:
    """A picture with flat parts, gradients, few and many colours."""
    random_ = np.random.default_rng(seed)
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:80] = np.linspace(0, 255, WIDTH).astype(np.uint8)[None, :, None]
    picture[80:160, :160] = random_.integers(0, 256, (80, 160, 3))
    picture[80:160, 160:] = random_.choice([20, 90, 200], (80, 160, 1))
    picture[160:, ::7] = (255, 40, 0)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PPM")
    return file.getvalue()


DRAW = """
import sys
from PIL import Image
from Xlib import X
from Xlib.display import Display
picture = Image.open(sys.argv[1]).convert("RGB")
display = Display()
screen = display.screen()
context = screen.root.create_gc()
data = picture.convert("RGBA").tobytes("raw", "BGRA")
for top in range(0, picture.height, 40):
    rows = data[top * picture.width * 4 : (top + 40) * picture.width * 4]
    screen.root.put_image(context, 0, top, picture.width, 40, X.ZPixmap, screen.root_depth, 0, rows)
display.sync()
"""


async def draw(environment: Mapping[str, str], folder: Path, seed: int) -> None:
    path = folder / "picture.ppm"
    path.write_bytes(noise(seed))
    await trio.run_process([sys.executable, "-c", DRAW, str(path)], env=environment)


def rounded(picture: Array, pixel_format: PixelFormat) -> Array:
    """As Xvnc says it in a format of fewer bits: the nearest value of each channel."""
    maxima = (pixel_format.red_max, pixel_format.green_max, pixel_format.blue_max)
    channels = []
    for channel, maximum in enumerate(maxima):
        value = (picture[..., channel].astype(np.uint32) * maximum + 128) // 255
        channels.append((value * 255 + maximum // 2) // maximum)
    return np.stack(channels, axis=-1).astype(np.uint8)


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How many rectangles of each encoding have come."""
    count: Counter[int] = Counter()

    def counting(number: int, decode: Decoder) -> Decoder:
        def counted(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
            count[number] += 1
            return decode(canvas, x, y, w, h)

        return counted

    for number, decode in list(DECODERS.items()):
        monkeypatch.setitem(DECODERS, number, counting(number, decode))
    return count


@pytest.mark.parametrize("encoding", PIXELS)
@pytest.mark.parametrize("pixel_format", FORMATS.values(), ids=FORMATS)
async def test_what_is_seen_is_what_x_shows(
    encoding: str,
    pixel_format: PixelFormat,
    xvnc: RunningDesktop,
    tmp_path: Path,
    painted: Counter[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment, number = on(xvnc), PIXELS[encoding]
    if encoding != "tight with JPEG":
        monkeypatch.setattr(connection, "_QUALITY", LOSSLESS)
    async with relay.connect(xvnc, encodings=[number], pixel_format=pixel_format) as desktop:
        # Xvnc draws a cursor into the picture that is not where this client put it.
        await desktop.move(0, 0)
        # The window manager draws a background when it has started.
        assert await desktop.settled(quiet_s=0.3, limit_s=5)
        for seed in range(2):
            await draw(environment, tmp_path, seed)
            expected = rounded(await shown(environment), pixel_format)
            picture = await desktop.picture()
            assert picture.shape == (HEIGHT, WIDTH, 4)
            assert (picture[..., 3] == 255).all()
            if encoding == "tight with JPEG":
                # Where colours are many.
                close = np.abs(picture[..., :3].astype(int) - expected.astype(int)).mean()
                assert close < 1
            else:
                np.testing.assert_array_equal(picture[..., :3], expected)
        assert painted[number] > 0


SCROLL = """
from Xlib.display import Display
display = Display()
root = display.screen().root
root.copy_area(root.create_gc(), root, 0, 40, 300, 150, 17, 9)
display.sync()
"""


@pytest.mark.parametrize("pixel_format", FORMATS.values(), ids=FORMATS)
async def test_what_is_copied_is_what_x_shows(
    pixel_format: PixelFormat, xvnc: RunningDesktop, tmp_path: Path, painted: Counter[int]
) -> None:
    """`picture` asks for all, which has no copies in it: this looks at what changes have left."""
    environment = on(xvnc)
    async with relay.connect(xvnc, encodings=[16, 1], pixel_format=pixel_format) as desktop:
        await desktop.move(0, 0)
        assert await desktop.settled(quiet_s=0.3, limit_s=5)
        await draw(environment, tmp_path, 4)
        before = await desktop.picture()
        painted.clear()
        await trio.run_process([sys.executable, "-c", SCROLL], env=environment)
        assert await desktop.settled(quiet_s=0.3, limit_s=5)
        after = desktop._connection.canvas.pixels
        assert painted[1] > 0
        assert (after != before).any()
        np.testing.assert_array_equal(
            after[..., :3], rounded(await shown(environment), pixel_format)
        )


async def test_a_screenshot_is_a_png_of_what_x_shows(xvnc: RunningDesktop, tmp_path: Path) -> None:
    async with relay.connect(xvnc) as desktop:
        await desktop.move(0, 0)
        assert await desktop.settled(quiet_s=0.3, limit_s=5)
        await draw(on(xvnc), tmp_path, 3)
        image = Image.open(io.BytesIO(await desktop.screenshot()))
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), await shown(on(xvnc)))


async def test_the_readmes_example(xvnc: RunningDesktop, window: Window) -> None:
    _, example = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    scope: dict[str, Any] = {"relay": relay}
    exec(example.replace("tcp://127.0.0.1:5901", str(xvnc.address)), scope)
    image = Image.open(io.BytesIO(await scope["look"]()))
    assert image.size == (WIDTH, HEIGHT)
    await until(lambda: len(window.heard) >= 4)
    assert window.heard[:4] == ["down 1 10 20", "up 1 10 20", "press 0x68", "release 0x68"]


async def test_it_waits_until_the_screen_has_settled(xvnc: RunningDesktop, tmp_path: Path) -> None:
    async with relay.connect(xvnc) as desktop, trio.open_nursery() as nursery:
        await desktop.move(0, 0)
        assert await desktop.settled(quiet_s=0.2, limit_s=5)
        nursery.start_soon(draw, on(xvnc), tmp_path, 1)
        before = await desktop.picture()
        with trio.fail_after(10):
            while (await desktop.picture() == before).all():
                await trio.sleep(0.02)
        assert await desktop.settled(quiet_s=0.3, limit_s=5)
        np.testing.assert_array_equal((await desktop.picture())[..., :3], await shown(on(xvnc)))


async def test_clicks_and_the_wheel(xvnc: RunningDesktop, window: Window) -> None:
    async with relay.connect(xvnc) as desktop:
        await desktop.click(0, 0)
        await desktop.click(10, 20, count=2)
        await desktop.click(button=3)
        await desktop.scroll(down=1)
        await desktop.scroll(right=-1)
        await desktop.move(30, 40)
        await desktop.drag(50, 60)
    await window.hears(
        "down 1 0 0", "up 1 0 0",
        "down 1 10 20", "up 1 10 20", "down 1 10 20", "up 1 10 20",
        "down 3 10 20", "up 3 10 20",
        "down 5 10 20", "up 5 10 20",
        "down 6 10 20", "up 6 10 20",
        "down 1 30 40", "up 1 50 60",
    )  # fmt: skip


async def test_what_is_held_down_is_released_at_the_end(
    xvnc: RunningDesktop, window: Window
) -> None:
    async with relay.connect(xvnc) as desktop:
        await desktop.move(5, 5)
        await desktop.button_down()
        await desktop.key_down(0x61)
        await desktop.sync()
    await window.hears("down 1 5 5", "press 0x61", "release 0x61", "up 1 5 5")


async def test_a_combination_is_released_backwards(xvnc: RunningDesktop, window: Window) -> None:
    async with relay.connect(xvnc) as desktop:
        await desktop.press("ctrl+a")
    await window.hears("press 0xffe3", "press 0x61", "release 0x61", "release 0xffe3")


async def pressed(desktop: Desktop, text: str, window: Window) -> list[int]:
    await desktop.type(text)
    await until(lambda: sum(line.startswith("release") for line in window.heard) >= len(text))
    return [int(line.split()[1], 16) for line in window.heard if line.startswith("press")]


async def test_capitals_and_signs(xvnc: RunningDesktop, window: Window) -> None:
    text = "Hello, World! 2 + 2 = {4}; ~/a_B"
    async with relay.connect(xvnc) as desktop:
        keysyms = await pressed(desktop, text, window)
    assert 0xFFE5 not in keysyms  # Caps_Lock
    typed = [keysym for keysym in keysyms if keysym != 0xFFE1]
    assert bytes(typed).decode() == text


@asynccontextmanager
async def running(command: str, environment: Mapping[str, str]) -> AsyncIterator[None]:
    process = await trio.lowlevel.open_process(
        ["sh", "-c", f"exec {command}"], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def sample(count: int) -> str:
    """Characters of several scripts, most of which no keyboard has, and some that each has."""
    some = random.Random(5)
    ranges = [(0x21, 0x7F), (0xA1, 0xAD), (0x3B1, 0x3CA), (0x410, 0x450), (0x4E00, 0x9FA5)]
    ranges += [(0x3041, 0x3097), (0x1F600, 0x1F640)]
    return "".join(chr(some.randrange(*some.choice(ranges))) for _ in range(count))


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("xterm -u8 -geometry 40x10 -e 'cat > {}'", id="xterm"),
        pytest.param("zenity --entry > {}", id="GTK entry"),
    ],
)
async def test_200_characters_arrive_whole(
    command: str, xvnc: RunningDesktop, tmp_path: Path
) -> None:
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"{command.split()[0]} is not installed")
    text, path = sample(200), tmp_path / "typed"
    environment = on(xvnc) | {"LC_ALL": "C.UTF-8"}
    async with relay.connect(xvnc) as desktop:
        assert await desktop.settled(quiet_s=0.3, limit_s=5)
        before = await desktop.picture()
        async with running(command.format(path), environment):
            with trio.fail_after(20):
                while (await desktop.picture() == before).all():
                    await trio.sleep(0.05)
            assert await desktop.settled(quiet_s=0.5, limit_s=10)
            await desktop.type(text)
            await desktop.press("Return")
            await until(lambda: path.read_text().strip() != "")
            assert path.read_text().strip() == text


@pytest.mark.skipif(shutil.which("setxkbmap") is None, reason="setxkbmap is not installed")
@pytest.mark.parametrize("layout", ["de", "fr", "ru"])
async def test_pasted_text_needs_no_key_of_the_keyboard(
    layout: str, xvnc: RunningDesktop, tmp_path: Path
) -> None:
    if shutil.which("xterm") is None:
        pytest.skip("xterm is not installed")
    text = bytes(range(0x20, 0x7F)).decode() + "äöüß ÉÈ°µ Жж Ω 漢"
    environment = on(xvnc) | {"LC_ALL": "C.UTF-8"}
    async with relay.connect(xvnc) as desktop:
        # The window manager, which gives the focus, has started.
        assert await desktop.settled(quiet_s=0.3, limit_s=5)
        await trio.run_process(["setxkbmap", layout], env=environment)
        # On a Russian keyboard alone there are keys for some 20 letters of these.
        ways = {"paste": desktop.paste} | ({} if layout == "ru" else {"type": desktop.type})
        for name, way in ways.items():
            path = tmp_path / name
            command = f"xterm -u8 -geometry 40x10 -e 'cat > {path}'"
            async with running(command, environment):
                await until(path.exists)
                assert await desktop.settled(quiet_s=0.5, limit_s=10)
                await way(text)
                await desktop.press("Return")
                with trio.fail_after(10):
                    while not path.read_text().endswith("\n"):
                        await trio.sleep(0.02)
                assert path.read_text().rstrip("\n") == text


async def test_text_of_any_script_without_a_clipboard(xvnc: RunningDesktop, window: Window) -> None:
    """As keys, which X names by 0x1000000 and the character's number."""
    text = "aé€Жあ漢😀"
    async with relay.connect(xvnc) as desktop:
        desktop._messages.clipboard_on_request = False
        keysyms = await pressed(desktop, text, window)
    typed = [keysym for keysym in keysyms if keysym not in (0xFFE1, 0xFE03)]
    names = {0x20AC: 0x20AC, 0x6B6: 0x416}  # EuroSign, Cyrillic_ZHE of the older tables
    points = [names.get(k, k - 0x1000000 if k > 0x1000000 else k) for k in typed]
    assert points == [ord(character) for character in text]


async def test_the_computer_tool_on_it(
    xvnc: RunningDesktop, window: Window, tmp_path: Path
) -> None:
    """A model clicks, types and looks: the picture in its result is what X shows."""
    async with relay.connect(xvnc) as desktop:
        # The background and the terminal are there.
        assert await desktop.settled(quiet_s=0.5, limit_s=5)
        computer = Computer(desktop)
        batch = [
            ("left_click", {"coordinate": [30, 40], "text": "shift"}),
            ("key", {"text": "ctrl+c"}),
            ("type", {"text": "ls"}),
            ("screenshot", {}),
        ]
        blocks = [
            {"type": "tool_use", "id": f"t{at}", "name": name, "toolset_name": "computer"}
            | {"input": given}
            for at, (name, given) in enumerate(batch)
        ]
        results = await computer.run_batch(blocks)
        shown_last = await shown(on(xvnc))
    assert [result["is_error"] for result in results if "is_error" in result] in ([], [False] * 4)
    (image,) = [block for block in results[-1]["content"] if block["type"] == "image"]
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["source"]["data"]))))
    assert seen.shape == (HEIGHT, WIDTH, 3)
    # All but the pointer, which X does not show in xwd.
    assert (np.abs(seen.astype(int) - shown_last).max(axis=2) > 0).sum() < 600
    await window.hears(
        "press 0xffe1", "down 1 30 40", "up 1 30 40", "release 0xffe1",
        "press 0xffe3", "press 0x63", "release 0x63", "release 0xffe3",
        "press 0x6c", "release 0x6c", "press 0x73", "release 0x73",
    )  # fmt: skip
