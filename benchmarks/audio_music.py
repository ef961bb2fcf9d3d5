"""Races of audio and music, each part in a process of its own: `make bench`, or one part.

    python -m benchmarks.audio_music cqt step --threads 1
    python -m benchmarks.audio_music step --processor-time  # on a machine that does other work too
    PYTHONPATH=DIR python -m benchmarks.audio_music cqt     # with nnAudio and librosa in DIR

`cqt`: frames of the constant-Q transform against nnAudio's CQT1992v2 and librosa; `loader`: crops
of recordings against a file after the other; `step`: MERT's pre-training step against torchaudio's
`hubert_pretrain_base` of equal size; `heads`: the code heads against the expanded form;
`augmentations`: mixture, and views of snippets of sound and scores, of a batch against one after
the other. Peers race only where they can be imported.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.race import interleaved, paired_ratio, peak_mib, peer

PARTS = ("cqt", "loader", "step", "heads", "augmentations")
RATE = 24000
Clock = Callable[[], float]


def cqt(repeats: int, clock: Clock) -> None:
    """Frames a second of 336 bins, and how far the numbers are apart."""
    from audio_music.data.cqt import CQT

    waves = 0.1 * torch.randn(4, 5 * RATE)
    ours = CQT()
    works = {"ours": lambda: ours(waves)}
    features = peer("nnAudio.features.cqt")
    sizes = {"hop_length": 320, "fmin": 32.7, "n_bins": 336, "bins_per_octave": 48}
    if features is not None:
        theirs = features.CQT1992v2(sr=RATE, pad_mode="constant", verbose=False, **sizes)
        works["nnAudio CQT1992v2"] = lambda: theirs(waves)
        expected = theirs(waves).transpose(1, 2)
        found = ours(waves)
        print(
            f"largest difference to nnAudio: {(found - expected).abs().max() / expected.max():.1e}"
        )
    librosa = peer("librosa")
    if librosa is not None:
        clips = waves.numpy()
        works["librosa.cqt"] = lambda: [np.abs(librosa.cqt(y=c, sr=RATE, **sizes)) for c in clips]
    for work in works.values():
        work()
    frames = 4 * ours.n_frames(5 * RATE)
    _print_rates(interleaved(works, repeats, clock), frames, "frames/s")


def loader(repeats: int, clock: Clock) -> None:
    """Hours of audio a second: crops of 5 s from minutes of 16-bit FLAC at another rate."""
    import soundfile
    from torchaudio.functional import resample

    from audio_music.data.crop_loader import CropLoader
    from audio_music.data.read_recordings import load_recordings

    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for number in range(12):
            wave = 0.1 * rng.standard_normal(60 * 32000)
            soundfile.write(Path(folder) / f"{number}.flac", wave, 32000, subtype="PCM_16")
        settings = {"rate": RATE, "seconds": 5.0, "ratios": (1.0, 0.0, 0.0), "device": "cpu"}
        files = load_recordings(folder, resident_mib=0, workers=2, **settings)
        memory = load_recordings(folder, **settings)
        paths = sorted(Path(folder).glob("*.flac"))
        starts = rng.integers(0, 55 * RATE, len(memory.crops_of("train")))

        def one_by_one() -> None:
            for number, start in enumerate(starts.tolist()):
                wave, rate = soundfile.read(paths[number % len(paths)], dtype="float32")
                resample(torch.from_numpy(wave), rate, RATE)[start : start + 5 * RATE]

        works = {
            "crops from memory": lambda: list(CropLoader(memory, 32, 0)),
            "crops from files": lambda: list(CropLoader(files, 32, 0)),
            "soundfile.read, resample, crop": one_by_one,
        }
        times = interleaved(works, repeats, clock)
        _print_rates(times, 5 * len(starts) / 3600, "hours of audio/s")


def step(repeats: int, clock: Clock, clips: int = 2, seconds: float = 2.0) -> None:
    """Forward and backward pass of 95M parameters, with mixture, two teachers and both heads."""
    from torchaudio.models import hubert_pretrain_base

    from audio_music.systems.mert import MERT
    from core.augment.draws import Draws

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = {"_target_": "audio_music.systems.code_teachers.KMeansTeacher"}
    teacher |= {"codebooks": 1, "codes": 100}  # one codebook of 100, as the peer has
    ours = MERT(RATE, teacher=teacher, code_dim=256).to(device)
    theirs = hubert_pretrain_base().to(device)
    wave = 0.1 * torch.randn(clips, int(seconds * RATE), device=device)
    labels = torch.randint(0, 100, (clips, _frames(wave.shape[1])), device=device)
    draws = Draws(0, clips, slice(0, clips), device)

    def mert() -> None:
        ours.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            batch = {"wave": wave}
            loss = ours.objective(batch | ours.draw(batch, draws))["loss"]
        loss.backward()
        _wait(device)

    def hubert() -> None:
        theirs.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits, _, penalty = theirs(wave, labels)
            target = torch.zeros(len(logits), dtype=torch.int64, device=device)
            loss = F.cross_entropy(logits.float(), target) + 10 * penalty
        loss.backward()
        _wait(device)

    for name, model in (("MERT", ours), ("HuBERT", theirs)):
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        print(f"{name}: {size / 1e6:.1f} million parameters")
    works = {"torchaudio hubert_pretrain_base": hubert, "MERT, both teachers and mixture": mert}
    for work in works.values():
        work()
    _print_rates(interleaved(works, repeats, clock), clips * seconds / 3600, "hours of audio/s")
    print(f"peak memory of both: {peak_mib():.0f} MiB")


def _frames(samples: int) -> int:
    """Frames of torchaudio's convolutions."""
    return (samples - 400) // 320 + 1


def heads(repeats: int, clock: Clock) -> None:
    """Forward and backward pass of 8 heads of 1024 codes on 2 x 150 frames."""
    from core.losses import hubert_codebooks

    states = torch.randn(2, 150, 8, 64, requires_grad=True)
    codes = torch.rand(8, 1024, 64, requires_grad=True)
    labels, frames = torch.randint(0, 1024, (2, 150, 8)), torch.rand(2, 150) < 0.55

    def batched() -> float:
        loss = hubert_codebooks(states, codes, labels, frames).sum()
        loss.backward()
        return float(loss.detach())

    def expanded() -> float:
        total = torch.zeros(())
        for k in range(8):
            x = states[:, :, k][frames]
            positive = codes[k][labels[..., k][frames]]
            negatives = codes[k][:, None].expand(-1, len(x), -1)
            candidates = torch.cat([positive[None], negatives])
            logits = F.cosine_similarity(x[None], candidates, dim=-1) / 0.1
            same = (positive == negatives).all(-1)
            logits = torch.cat([logits[:1], logits[1:].masked_fill(same, -torch.inf)]).T
            zeros = torch.zeros(len(x), dtype=torch.int64)
            total = total + F.cross_entropy(logits, zeros, reduction="sum")
        total.backward()
        return float(total.detach())

    print(f"difference of the losses: {abs(batched() / expanded() - 1):.1e}")
    works = {"one batched product": batched, "expanded, a codebook after the other": expanded}
    _print_rates(interleaved(works, repeats, clock), 300, "frames/s")


def augmentations(repeats: int, clock: Clock) -> None:
    """Mixture of 32 clips of a second, and the views that `audio_sheet` pre-trains with."""
    from audio_music.systems.mert import mixed
    from benchmarks.audio_music_snippets import race_views

    waves = 0.1 * torch.randn(32, RATE)
    rng = torch.Generator().manual_seed(0)
    length = torch.randint(4800, 12001, (32, 3), generator=rng)
    start = torch.randint(0, 31 * RATE - 12000, (32, 3), generator=rng)
    place = (torch.rand(32, 3, generator=rng) * (RATE - length)).long()
    excerpts = torch.stack([start, length, place], 2)

    def each_clip() -> torch.Tensor:
        out = []
        for clip in range(32):
            pool = torch.cat([waves[:clip], waves[clip + 1 :]]).flatten()
            wave = waves[clip].clone()
            for begin, size, to in excerpts[clip].tolist():
                wave[to : to + size] += pool[begin : begin + size]
            out.append(wave)
        return torch.stack(out)

    batched = mixed(waves, excerpts, 12000)
    print(f"largest difference: {(batched - each_clip()).abs().max():.1e}")
    works = {
        "mixture of the batch": lambda: mixed(waves, excerpts, 12000),
        "mixture, a clip after the other": each_clip,
    }
    _print_rates(interleaved(works, repeats, clock), 32, "clips/s")
    race_views(16, repeats, clock)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _print_rates(times: dict[str, list[float]], amount: float, unit: str) -> None:
    first, *others = times
    for name, of in times.items():
        rate = amount / statistics.median(of)
        print(f"{name:40} {rate:12.4g} {unit}  {amount / max(of):.4g} to {amount / min(of):.4g}")
    for name in others:
        print(f"{first} is {paired_ratio(times[name], times[first])} times as fast as {name}")


def main() -> None:
    """Runs the parts that the command line names, all without one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--processor-time", action="store_true", help="of this process, without its workers"
    )
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    if arguments.alone:
        torch.manual_seed(0)
        clock = time.process_time if arguments.processor_time else time.perf_counter
        globals()[arguments.parts[0]](arguments.repeats, clock)
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    for part in arguments.parts or PARTS:
        command = [sys.executable, "-m", "benchmarks.audio_music", part, "--alone"]
        command += ["--repeats", str(arguments.repeats)]
        command += ["--processor-time"] if arguments.processor_time else []
        print(f"\n{part}, {arguments.threads} thread(s), load {os.getloadavg()[0]:.1f}", flush=True)
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
