"""Log-mel features without training: what a method of audio has to be better than."""

import torch
from jaxtyping import Float
from torch import Tensor

from core.trainers.system import Batch, System

_FLOOR = 1e-5


class LogMel(System):
    """Log powers of mel bands; a clip is their mean and deviation over time.

    Args:
        rate: of the waves, in Hz.
        n_mels: bands.
        window: samples of a window.
        hop: samples from one to the next.
    """

    def __init__(self, rate: int, n_mels: int = 128, window: int = 1024, hop: int = 320) -> None:
        from torchaudio.transforms import MelSpectrogram

        super().__init__()
        self.rate, self.hop = rate, hop
        self.mel = MelSpectrogram(rate, window, hop_length=hop, n_mels=n_mels)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """There is nothing to learn."""
        return {"loss": batch["wave"].new_zeros(())}

    @torch.no_grad()
    def layers(self, batch: Batch) -> Float[Tensor, "batch 1 dim"]:
        """Mean and deviation over the time of each wave."""
        frames = self.frames(batch)[:, :, 0]
        if "samples" not in batch:
            return torch.cat([frames.mean(1), frames.std(1, correction=0)], 1)[:, None]
        n_frames = batch["samples"] // self.hop + 1
        inside = torch.arange(frames.shape[1], device=frames.device) < n_frames[:, None]
        count, inside = n_frames[:, None], inside[..., None]
        mean = (frames * inside).sum(1) / count
        variance = ((frames - mean[:, None]).square() * inside).sum(1) / count
        return torch.cat([mean, variance.sqrt()], 1)[:, None]

    @torch.no_grad()
    def frames(self, batch: Batch) -> Float[Tensor, "batch time 1 bands"]:
        """Log powers of every frame."""
        powers = self.mel(batch["wave"].float())
        return powers.clamp_min(_FLOOR).log().transpose(1, 2)[:, :, None]

    def frame_times(self, n_frames: int) -> Float[Tensor, " time"]:
        """Centres of the frames, in seconds."""
        return torch.arange(n_frames) * self.hop / self.rate

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`audio`: mean and deviation."""
        return {"audio": self.layers(batch)[:, 0]}
