"""Races of the shared core against peers, each part in a process of its own: `make bench`.

    python -m benchmarks.core losses --threads 1

`losses`: forward and backward of the contrastive losses; `memory`: peak of the tiled InfoNCE
against the full matrix; `knn`: 50,000 training rows, 10,000 queries, 512-d; `simclr`: steps of
SimCLR with a ResNet-18 on images of 32 x 32; `monitors`: what the online monitors cost. Peers
(lightly, open_clip, pytorch-metric-learning, stable-pretraining) race where they are installed;
what is missing is said.
"""

import argparse
import os
import subprocess
import sys

PARTS = ("losses", "memory", "knn", "simclr", "monitors")


def main() -> None:
    """Runs the parts that the command line names, all without one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--largest", type=int, default=4096, help="rows of the largest batch")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    for part in arguments.parts or PARTS:
        command = [sys.executable, "-m", f"benchmarks.core_{part}"]
        command += [str(arguments.largest)] if part in ("losses", "memory") else []
        print(f"\n{part}, {arguments.threads} thread(s)", flush=True)
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
