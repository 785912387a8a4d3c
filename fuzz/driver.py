"""Runs the targets on inputs made at random, with nothing but Python.

`python -m fuzz.driver --seconds 60` shares the time among all targets, on every core;
`--seconds 60 viewer` spends it on one. Prints each target's executions. An input that breaks an
invariant, or takes longer than HANG_S, is saved as fuzz/corpus/<target>/crash-<hash>, where
tests/fuzz/test_targets.py finds it, and the driver exits with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import signal
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fuzz import targets
from fuzz.inputs import made
from fuzz.seeds import CORPUS, seeds

HANG_S = 10.0
"""Far beyond what the largest input takes."""

_BETWEEN_LOOKS = 200
"""Executions between two looks at the clock."""


@dataclass
class Result:
    target: str
    executions: int
    seconds: float
    crash: Path | None = None
    story: str = ""


class _Hang(Exception):
    """An execution that does not end."""


def _hang(number: int, frame: FrameType | None) -> None:
    raise _Hang(f"no end in {HANG_S} s")


def save(target: str, data: bytes) -> Path:
    """Keeps an input in the corpus as a crash."""
    path = CORPUS / target / f"crash-{hashlib.sha1(data).hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def fuzz(target: str, seconds: float, seed: int) -> Result:
    """Runs one target until the time is over or an input breaks it."""
    run = targets.load(target)
    known = seeds(target)
    rng = random.Random(f"{target} {seed}")
    signal.signal(signal.SIGALRM, _hang)
    started = time.monotonic()
    count = 0
    data = b""
    try:
        signal.setitimer(signal.ITIMER_REAL, 6 * HANG_S)
        for data in known:
            run(data)
            count += 1
        while time.monotonic() - started < seconds:
            signal.setitimer(signal.ITIMER_REAL, HANG_S)
            for _ in range(_BETWEEN_LOOKS):
                data = made(rng, known)
                run(data)
            count += _BETWEEN_LOOKS
    # Whatever escapes a target is a finding.
    except Exception:  # noqa: BLE001
        story = traceback.format_exc(limit=-6)
        return Result(target, count, time.monotonic() - started, save(target, data), story)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return Result(target, count, time.monotonic() - started)


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 if any target broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, help="default: a new one each time, printed")
    parser.add_argument("targets", nargs="*", metavar="target", help=", ".join(targets.names()))
    options = parser.parse_args(arguments)
    names = options.targets or targets.names()
    unknown = set(names) - set(targets.names())
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    cores = min(os.cpu_count() or 1, len(names))
    each_s = options.seconds * cores / len(names)
    print(f"seed {seed}, {each_s:.0f} s a target on {cores} cores")
    total = 0
    broken = False
    with multiprocessing.Pool(cores) as pool:
        running = [pool.apply_async(fuzz, (name, each_s, seed)) for name in names]
        for pending in running:
            result = pending.get()
            total += result.executions
            rate = result.executions / result.seconds
            print(f"{result.target:18} {result.executions:12,} executions, {rate:9,.0f}/s")
            if result.crash:
                broken = True
                print(f"{result.story}\nsaved as {result.crash}")
    print(f"{'all':18} {total:12,} executions")
    return int(broken)


if __name__ == "__main__":
    raise SystemExit(main())
