"""Races of the recommenders, each part in a process of its own: `make bench`, or one part alone.

    python -m benchmarks.recsys rearm --threads 1

`bm3` and `rearm` are methods on generated data of 20,000 users, 7,000 items and 4096-d and 384-d
features; `neighbours`, `softmax` and `ranking` are the kernels at the sizes of large catalogues.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys

PARTS = {
    "bm3": "benchmarks.recsys_bm3",
    "rearm": "benchmarks.recsys_rearm",
    "neighbours": "benchmarks.recsys_neighbours",
    "softmax": "benchmarks.recsys_softmax",
    "ranking": "benchmarks.recsys_ranking",
}


def main() -> None:
    """Runs the parts one after the other and prints a table of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS) + "; or all")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.parts) - set(PARTS)):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if arguments.here:
        (part,), (threads,) = arguments.parts, arguments.threads
        print(json.dumps(importlib.import_module(PARTS[part]).race(threads)))
        return
    from core.report import print_table

    for part in arguments.parts or PARTS:
        rows = []
        for threads in arguments.threads:
            command = [sys.executable, "-m", "benchmarks.recsys", part, "--here"]
            command += ["--threads", str(threads)]
            # The command `recsys` sets this too.
            env = os.environ | {"THP_MEM_ALLOC_ENABLE": "1"}
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
            found, notes = json.loads(run.stdout.splitlines()[-1])
            rows += found
            print(f"{part}, {threads} thread(s), load {os.getloadavg()[0]:.1f}")
            for note in notes:
                print(f"  {note}")
        print_table(rows, part)


if __name__ == "__main__":
    main()
