"""Peak memory of the tiled InfoNCE against the full matrix, each in a process of its own."""

import subprocess
import sys

import torch

from benchmarks.race import peak_mib
from core.losses import info_nce
from core.report import print_table

DIM = 256


def used(batch: int, tile: int | None) -> float:
    """MiB that forward and backward add to the inputs and their gradients."""
    a, b = torch.randn(2, batch, DIM).unbind()
    a, b = a.requires_grad_(), b.requires_grad_()
    info_nce(a[:64], b[:64], tile=tile and 32).backward()
    before = peak_mib()
    info_nce(a, b, tile=tile).backward()
    return peak_mib() - before


def main() -> None:
    """One row a batch size; with two arguments, one measurement for such a row."""
    if len(sys.argv) == 3:
        print(used(int(sys.argv[1]), int(sys.argv[2]) or None))
        return
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    rows = []
    for batch in (b for b in (2048, 4096, 8192, 16384, 32768) if b <= max(largest, 8192)):
        row = {"batch": str(batch), "one matrix, MiB": f"{batch * batch * 4 / 2**20:.0f}"}
        for name, tile in (("full", 0), ("tiles of 1024", 1024)):
            if tile == 0 and batch > 8192:
                row[f"{name}, MiB"] = "not run"
                continue
            command = [sys.executable, "-m", "benchmarks.core_memory", str(batch), str(tile)]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            row[f"{name}, MiB"] = f"{float(run.stdout):.0f}"
        rows.append(row)
    print_table(rows, f"InfoNCE, {DIM}-d float32: memory of forward and backward beside the inputs")


if __name__ == "__main__":
    main()
