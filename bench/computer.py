"""`python -m bench.computer`: how long it takes to see a desktop and act on it, on a real Xvnc.

The RFB client beside xdotool and ImageMagick's `import`, in turn, in the same run: milliseconds,
medians. An action is over when the desktop has taken it: for the client when a Fence says so, for
xdotool when it has ended. The exit status is 1 where a bar is not met.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial

import trio

import relay
from bench.options import parser_of
from relay import Desktop
from relay.desktops import Provider, RunningDesktop, provider_for

TEXT = "The quick brown fox jumps over the lazy dog. " * 2 + "Ten more.."

# Milliseconds at the most, and what is measured beside it.
BARS_MS = {"click": 1.0, "type 100 characters": 10.0, "screenshot": 30.0}
TIMES_FASTER = 50
"""A click, at least, than xdotool's move and click."""

AGENTS = 20


async def _ms(act: Callable[[], Awaitable[object]], rounds: int) -> list[float]:
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        await act()
        spent.append((time.perf_counter() - began) * 1e3)
    return spent


async def _program(environment: dict[str, str], *command: str) -> None:
    await trio.run_process(command, env=environment, stdout=subprocess.DEVNULL)


async def _ours(desktop: Desktop, rounds: int) -> dict[str, list[float]]:
    place = iter(range(10**9))

    async def click() -> None:
        at = next(place)
        await desktop.click(at % 600 + 10, at % 400 + 10)

    return {
        "click": await _ms(click, rounds),
        "type 100 characters": await _ms(lambda: desktop.type(TEXT), rounds),
        "screenshot": await _ms(desktop.screenshot, rounds),
    }


async def _theirs(environment: dict[str, str], rounds: int) -> dict[str, list[float]]:
    tools: dict[str, tuple[str, ...]] = {
        "click": ("xdotool", "mousemove", "--sync", "50", "50", "click", "1"),
        "type 100 characters": ("xdotool", "type", "--delay", "0", TEXT),
        "screenshot": ("import", "-window", "root", "png:/dev/null"),
    }
    spent: dict[str, list[float]] = {}
    for name, command in tools.items():
        if shutil.which(command[0]) is None:
            print(f"{command[0]} is not installed: {name} has nothing beside it")
            continue
        # --sync waits for a move, so the pointer must not be there already.
        away = ("xdotool", "mousemove", "10", "10")
        spent[name] = []
        for _ in range(rounds):
            if name == "click":
                await _program(environment, *away)
            spent[name] += await _ms(partial(_program, environment, *command), 1)
    return spent


async def _crowd(rounds: int) -> float:
    """Milliseconds of a click and a screenshot where so many work at once, each on its desktop."""
    spent: list[float] = []

    async def work(provider: Provider) -> None:
        async with trio.open_nursery() as nursery:
            running: RunningDesktop = await nursery.start(provider.run)
            async with relay.connect(running) as desktop:

                async def act() -> None:
                    await desktop.click(20, 20)
                    await desktop.screenshot()

                spent.extend(await _ms(act, rounds))
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(AGENTS):
            nursery.start_soon(work, provider_for("xvnc", geometry="1280x800"))
    return statistics.median(spent)


async def _measure(rounds: int) -> bool:
    async with trio.open_nursery() as nursery:
        provider = provider_for("xvnc", geometry="1280x800")
        running: RunningDesktop = await nursery.start(provider.run)
        environment = {**os.environ, **running.environment}
        async with relay.connect(running) as desktop:
            await _ours(desktop, 5)
            ours = await _ours(desktop, rounds)
            theirs = await _theirs(environment, max(5, rounds // 5))
        nursery.cancel_scope.cancel()
    met = True
    print("| | ms | least | most | bar | beside it | times faster |")
    print("|---|---|---|---|---|---|---|")
    for name, spent in ours.items():
        middle = statistics.median(spent)
        other = statistics.median(theirs[name]) if theirs.get(name) else None
        times = other / middle if other else None
        fine = middle <= BARS_MS[name] and not (
            name == "click" and times is not None and times < TIMES_FASTER
        )
        met &= fine
        cells = [f"{middle:.2f}", f"{min(spent):.2f}", f"{max(spent):.2f}"]
        cells += [f"{BARS_MS[name]:g}{'' if fine else ' NOT MET'}"]
        cells += [f"{other:.1f}" if other else "-", f"{times:.0f}" if times else "-"]
        print(f"| {name} | {' | '.join(cells)} |")
    together = await _crowd(max(3, rounds // 10))
    print(f"{AGENTS} at once, each on its desktop: {together:.0f} ms a click and a screenshot")
    return met


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("bench.computer", __doc__)
    parser.add_argument("--rounds", type=int, default=50, help="of each, for the median")
    options = parser.parse_args(arguments)
    if shutil.which("Xvnc") is None:
        parser.error("Xvnc is not installed (tigervnc-standalone-server)")
    with tempfile.TemporaryDirectory(prefix="dr-") as home:
        os.environ["XDG_RUNTIME_DIR"] = home
        return 0 if trio.run(_measure, options.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
