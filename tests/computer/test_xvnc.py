"""The computer tool on programs of a real Xvnc: a GTK one, and a terminal."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from PIL import Image

import relay
from relay.computer import Computer, Result
from relay.desktops import RunningDesktop
from relay.rfb.pixels.canvas import Array
from tests.labs.desktop_processes import desktops_home, needs_xvnc, until
from tests.labs.xvnc import HEIGHT, WIDTH, on, xvnc

__all__ = ["desktops_home", "xvnc"]  # the fixtures

pytestmark = needs_xvnc


@asynccontextmanager
async def using(desktop: RunningDesktop, command: str) -> AsyncIterator[Computer]:
    """The tool, on a desktop with a program that shows itself."""
    assert shutil.which(command.split()[0]) is not None, f"{command.split()[0]} is not installed"
    # Programs write there, as root wherever it is.
    home = Path(desktop.environment["XAUTHORITY"]).parent
    environment = on(desktop) | {"LC_ALL": "C.UTF-8", "HOME": str(home)}
    async with relay.connect(desktop) as connected, Computer(connected) as computer:
        assert await connected.settled(quiet_s=0.3, limit_s=5)
        before = await connected.picture()
        process = await trio.lowlevel.open_process(
            ["sh", "-c", command], env=environment, stderr=subprocess.DEVNULL
        )
        try:
            with trio.fail_after(20):
                while (await connected.picture() == before).all():
                    await trio.sleep(0.05)
            assert await connected.settled(quiet_s=0.5, limit_s=10)
            yield computer
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def run(computer: Computer, *actions: tuple[str, dict[str, Any]]) -> list[Result]:
    blocks = [
        {"id": f"toolu_{number}", "name": name, "input": given}
        for number, (name, given) in enumerate(actions)
    ]
    results = await computer.run_batch(blocks)
    assert not any(result["is_error"] for result in results), results
    return results


def shown(looked: Result) -> Array:
    data = base64.b64decode(looked["content"][-1]["source"]["data"])
    return np.asarray(Image.open(io.BytesIO(data)))


async def test_a_person_makes_the_desktop_larger_while_the_model_thinks(
    xvnc: RunningDesktop,
) -> None:
    """Xvnc tells nobody who does not ask."""
    async with relay.connect(xvnc) as desktop, Computer(desktop) as computer:
        await run(computer, ("screenshot", {}))
        await trio.run_process(["xrandr", "-s", "800x600"], env=on(xvnc))
        (result,) = await computer.run_batch(
            [{"id": "toolu_1", "name": "left_click", "input": {"coordinate": [9, 9]}}]
        )
        assert result["is_error"]
        size = f"resized from {WIDTH}x{HEIGHT} to 800x600"
        assert size in result["content"][0]["text"]
        await run(computer, ("screenshot", {}))
        await run(computer, ("left_click", {"coordinate": [799, 599]}))


async def test_a_program_moves_the_pointer(xvnc: RunningDesktop) -> None:
    """Xvnc tells that in VMware's way. What another viewer does it does not tell."""
    async with relay.connect(xvnc) as desktop, Computer(desktop) as computer:
        await run(computer, ("mouse_move", {"coordinate": [9, 9]}), ("screenshot", {}))
        warp = (
            "from Xlib.display import Display; d = Display(); "
            "d.screen().root.warp_pointer(33, 44); d.sync()"
        )
        await trio.run_process([sys.executable, "-c", warp], env=on(xvnc))
        (looked,) = await run(computer, ("cursor_position", {}))
        assert looked["content"][0]["text"] == "X=33, Y=44"


# A page whose colour is how many clicks the browser takes the last press for; yellow when
# something has been typed into the field at its bottom.
COUNTS = """<body style="height: 90vh"><input style="position: fixed; bottom: 0">
<div draggable="true" style="position: fixed; right: 0; bottom: 0; width: 50px; height: 50px"></div>
<div id="zone" style="position: fixed; left: 90px; top: 90px; width: 20px; height: 20px"></div>
<script>
const colours = ["#888", "#f00", "#0f0", "#00f"]
document.onmousedown = event => { document.body.style.background = colours[event.detail] }
zone.ondragover = event => event.preventDefault()
document.ondrop = event => { event.preventDefault(); document.body.style.background = "#0ff" }
document.oninput = () => { document.body.style.background = "#ff0" }
document.body.style.background = colours[0]
</script>"""


async def shows(computer: Computer, colour: str) -> None:
    """Waits until a place on the page has that colour: a busy browser paints in its own time."""
    with trio.fail_after(10):
        while True:
            (looked,) = await run(computer, ("screenshot", {}))
            if shown(looked)[50, 200].tolist() == [int(digit * 2, 16) for digit in colour]:
                return


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
async def test_a_browser_counts_clicks_and_takes_text_and_drops(
    xvnc: RunningDesktop, tmp_path: Path
) -> None:
    page = tmp_path / "counts.html"
    page.write_text(COUNTS)
    options = f"--no-sandbox --disable-gpu --no-first-run --kiosk --user-data-dir={tmp_path}/data"
    on_page = {"coordinate": [100, 100]}
    field = {"coordinate": [50, HEIGHT - 12]}
    carry = {"coordinate": [WIDTH - 20, HEIGHT - 20]}
    click = ("left_click", on_page)
    drag = ("left_click_drag", {"start_coordinate": carry["coordinate"], **on_page})
    steps: list[tuple[str, dict[str, Any]]] = [
        ("mouse_move", carry),
        ("left_mouse_down", {}),
        ("mouse_move", on_page),
        ("left_mouse_up", {}),
    ]
    turns: list[tuple[Sequence[tuple[str, dict[str, Any]]], str]] = [
        ([("double_click", on_page)], "0f0"),
        ([("triple_click", on_page)], "00f"),
        ([click, click], "f00"),
        ([("left_click", field), ("type", {"text": "x"})], "ff0"),
        ([click], "f00"),
        ([drag], "0ff"),
        ([click], "f00"),
        (steps, "0ff"),
    ]
    async with using(xvnc, f"chromium {options} --app=file://{page}") as computer:
        await shows(computer, "888")
        for actions, colour in turns * 2:
            await run(computer, *actions)
            await shows(computer, colour)


def text_of_terminal(looked: Result) -> tuple[int, int]:
    """Where the text of the one white window begins; the window manager has placed it."""
    white = (shown(looked) == 255).all(axis=-1)
    (across,) = (white.sum(axis=0) > 100).nonzero()
    (down,) = (white.sum(axis=1) > 100).nonzero()
    return int(across[0]) + 2, int(down[0]) + 2


async def test_a_gtk_entry_takes_what_is_typed_and_edited(
    xvnc: RunningDesktop, tmp_path: Path
) -> None:
    path = tmp_path / "typed"
    async with using(xvnc, f"zenity --entry > {path}") as computer:
        await run(
            computer,
            ("type", {"text": "Grüße, 世界 and mor"}),
            ("key", {"text": "BackSpace", "repeat": 8}),
            ("type", {"text": "!"}),
        )
        await run(computer, ("key", {"text": "Return"}))
        await until(lambda: path.read_text() != "")
    assert path.read_text() == "Grüße, 世界!\n"


async def test_two_clicks_on_a_gtk_row_choose_it_and_a_double_click_opens_it(
    xvnc: RunningDesktop, tmp_path: Path
) -> None:
    path = tmp_path / "chosen"
    command = f"zenity --list --hide-header --column=c --width=300 --height=220 one two > {path}"
    row = {"coordinate": [WIDTH // 2, 80]}
    async with using(xvnc, command) as computer:
        await run(computer, ("left_click", row), ("left_click", row))
        await run(computer, ("wait", {"duration": 0.3}))
        assert path.read_text() == ""
        await run(computer, ("double_click", row))
        await until(lambda: path.read_text() != "")
    assert path.read_text() in ("one\n", "two\n")


@pytest.mark.parametrize("clicks", [0, 1, 2])
async def test_a_drag_selects_text_in_a_terminal(xvnc: RunningDesktop, clicks: int) -> None:
    """After clicks elsewhere too: xterm counts them by time alone."""
    # Black on white, in cells of 6x13 pixels behind a border of two.
    command = "xterm -fn 6x13 -b 2 -bw 0 +sb -geometry 35x10 -e cat"
    async with using(xvnc, command) as computer:
        x, y = text_of_terminal((await run(computer, ("screenshot", {})))[0])
        results = await run(
            computer,
            ("mouse_move", {"coordinate": [x + 90, y + 60]}),
            ("type", {"text": "hello world"}),
            *[("left_click", {"coordinate": [x + 100, y + 80]})] * clicks,
            (
                "left_click_drag",
                {"start_coordinate": [x + 1, y + 6], "coordinate": [x + 31, y + 6]},
            ),
            ("mouse_move", {"coordinate": [x + 90, y + 60]}),
        )
    dark = shown(results[-1])[y : y + 13, x : x + 66].mean(axis=-1) < 128
    hello, world = dark[:, :30], dark[:, 36:66]
    assert hello.mean() > 0.5 > world.mean()
