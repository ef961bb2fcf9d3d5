"""Races of medicine, each part in a process of its own: `make bench`, or one part.

    python -m benchmarks.medical volumes

`volumes`: batches of whole volumes and crops against MONAI's `DataLoader` and transforms on the
same NIfTI files, with an empty and with a full cache, on disk and resident.
`local_contrast`: scores of volumes and reports by regions and words, in blocks whose attention is
computed again in the backward, against the loop over reports.
`patches`: patches a second from slides to features, against a `DataLoader` of single patches; the
losses of DINOv2 against `lightly`'s, where it is installed; episodes of SimpleShot at once against
one by one.
`dinov2`: the whole step of UNI against DINOv2 of `lightly`'s parts, where it is installed.
"""

import argparse
import os
import subprocess
import sys

PARTS = ("volumes", "local_contrast", "patches", "dinov2")


def main() -> None:
    """Runs the parts that the command line names, all without one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    for part in arguments.parts or PARTS:
        print(f"\n{part}, {arguments.threads} thread(s), load {os.getloadavg()[0]:.1f}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.medical_{part}"]
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
