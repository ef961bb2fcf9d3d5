"""Races of activity recognition, each part in a process of its own: `make bench`, or one part.

    python -m benchmarks.har steps --data DIR

`steps`: contrastive steps of CMC against a loader that augments a sample at a time, on UTD-MHAD or
as many generated clips, epoch, evaluation and memory; `projections`: scalograms and Fourier
coefficients against one window after the other, and steps of frame projections against SimCLR's.
"""

import argparse
import os
import subprocess
import sys

PARTS = ("steps", "projections")


def main() -> None:
    """Runs the parts that the command line names, all without one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", help="folder of UTD-MHAD, for `steps`")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    for part in arguments.parts or PARTS:
        command = [sys.executable, "-m", f"benchmarks.har_{part}"]
        command += [arguments.data] if part == "steps" and arguments.data else []
        print(f"\n{part}, {arguments.threads} thread(s), load {os.getloadavg()[0]:.1f}", flush=True)
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
