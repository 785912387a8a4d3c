"""`python -m bench`: how fast the relay is, and what it costs, on this machine now.

Runs ours (the real server) and its peers in turn, workload by workload, round by round, and writes
tables, plots and the runs themselves to bench/results/. Figures mean something only beside others
of the same run: machines differ, and the same one differs by the hour. Updates are numbered, and
every byte that arrives is compared: a run in which anything is lost, repeated, moved or changed has
an error in place of figures, and the exit status is 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.options import check_pace, chosen, parser_of
from bench.peers import PEERS, install
from bench.report import draw, line, write
from bench.runs import available, rounds
from bench.workloads import WORKLOADS

RESULTS = Path(__file__).with_name("results")


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("bench", __doc__)
    parser.add_argument("--secs", type=float, default=1.0, help="length of one run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, for the median")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="which, with commas")
    parser.add_argument("--peers", default=",".join(PEERS), help="which, with commas")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where reports go")
    parser.add_argument("--no-install", action="store_true", help="take peers as they are")
    options = parser.parse_args(arguments)
    workloads = chosen(parser, "workload", options.workloads, WORKLOADS)
    peers = chosen(parser, "peer", options.peers, PEERS)
    check_pace(parser, options)
    if not options.no_install:
        install()
    versions, missing = available(peers)
    for name, reason in missing.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    runs = []
    plan = {
        name: [peer for peer in WORKLOADS[name].peers if peer in versions] for name in workloads
    }
    for run in rounds(plan, options.rounds, options.secs):
        runs.append(run)
        print(f"round {run.round + 1}: {line(run)}", file=sys.stderr, flush=True)
    try:
        drawn = draw(options.out, runs)
    except ImportError as error:
        drawn = []
        print(f"no plots: {error}", file=sys.stderr)
    path = write(options.out, runs, versions, missing, drawn)
    print(path.read_text())
    print(f"Written to {path.parent}", file=sys.stderr)
    return any(run.error for run in runs)


if __name__ == "__main__":
    sys.exit(main())
