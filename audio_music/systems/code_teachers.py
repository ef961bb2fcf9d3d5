"""Acoustic teachers: what gives every frame of a wave its codes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from core.data.checks import DataError
from core.encoders.residual_quantizer import ResidualQuantizer

_FLOOR = 1e-5  # of powers, before their logarithm
_MOST_FRAMES = 200_000  # that k-means sees


class CodeTeacher(Protocol):
    """Codes of the frames of waves, one from each codebook.

    Attributes:
        codebooks: K.
        codes: entries of each.
    """

    codebooks: int
    codes: int

    def fit(self, waves: Iterable[Float[Tensor, "batch samples"]]) -> None:
        """Learns from training waves, once, before the training of the student."""
        ...

    def encode(self, wave: Float[Tensor, "batch samples"]) -> Int64[Tensor, "batch time codebooks"]:
        """Codes of frame t, which begins at sample t x hop."""
        ...


class KMeansTeacher(nn.Module):
    """Residual k-means of log-mel patches, in place of a neural codec.

    The patch of a frame holds the log powers of `parts` windows, evenly spaced within it, and is
    standardised by the mean and deviation of each of its numbers.

    Args:
        rate: of the waves, in Hz.
        hop: samples of a frame.
        codebooks: number of levels K.
        codes: entries of each.
        n_mels: bands.
        parts: windows of a patch.
        window: samples of a window.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        rate: int,
        hop: int,
        codebooks: int = 8,
        codes: int = 1024,
        n_mels: int = 64,
        parts: int = 2,
        window: int = 1024,
    ) -> None:
        from torchaudio.transforms import MelSpectrogram

        super().__init__()
        if hop % parts:
            raise DataError(f"{parts} windows in a hop of {hop}", expected="a divisor of the hop")
        self.codebooks, self.codes, self.parts = codebooks, codes, parts
        self.mel = MelSpectrogram(rate, window, hop_length=hop // parts, n_mels=n_mels)
        self.register_buffer("mean", torch.zeros(parts * n_mels))
        self.register_buffer("deviation", torch.ones(parts * n_mels))
        self.quantizer = ResidualQuantizer(parts * n_mels, codebooks, codes)

    @torch.no_grad()
    def fit(self, waves: Iterable[Float[Tensor, "batch samples"]]) -> None:
        """Standardises and clusters the patches of up to 200,000 frames."""
        found, n_frames = [], 0
        for wave in waves:
            patches = self._patches(wave).flatten(0, 1)
            found.append(patches)
            n_frames += len(patches)
            if n_frames > _MOST_FRAMES:
                break
        rows = torch.cat(found)[:_MOST_FRAMES]
        self.mean, self.deviation = rows.mean(0), rows.std(0).clamp_min(1e-3)
        self.quantizer.fit((rows - self.mean) / self.deviation)

    @torch.no_grad()
    def encode(self, wave: Float[Tensor, "batch samples"]) -> Int64[Tensor, "batch time codebooks"]:
        """(B, samples // hop, K) codes."""
        return self.quantizer.encode((self._patches(wave) - self.mean) / self.deviation)

    def _patches(self, wave: Tensor) -> Float[Tensor, "batch time dim"]:
        with torch.autocast(wave.device.type, enabled=False):
            powers = self.mel(wave.float())
        frames = powers.clamp_min(_FLOOR).log().transpose(1, 2)
        n_frames = (frames.shape[1] - 1) // self.parts
        patches: Tensor = frames[:, : n_frames * self.parts].unflatten(1, (n_frames, self.parts))
        return patches.flatten(2)


class GivenCodes(nn.Module):
    """Codes that were computed before and come with the recordings (`data.codes`).

    Args:
        rate: of the waves, in Hz.
        hop: samples of a frame.
        codebooks: number of levels K.
        codes: entries of each.
    """

    def __init__(self, rate: int, hop: int, codebooks: int = 8, codes: int = 1024) -> None:
        super().__init__()
        self.codebooks, self.codes = codebooks, codes

    def fit(self, waves: Iterable[Float[Tensor, "batch samples"]]) -> None:
        """There is nothing to learn."""

    def encode(self, wave: Float[Tensor, "batch samples"]) -> Int64[Tensor, "batch time codebooks"]:
        """Refuses: waves without codes have none.

        Raises:
            DataError: always.
        """
        raise DataError(
            "recordings without codes",
            fix="name their files, data.codes=encodec, or choose another system.teacher",
        )


class AutoencoderTeacher(nn.Module):
    """A small convolutional autoencoder with residual codebooks that follow its frames.

    Strided convolutions with ELU to one vector a hop, `ResidualQuantizer`, and their mirror image;
    it learns to give back the wave by the L1 distance of log-mel spectra of three sizes and of the
    wave itself, with the commitment of the encoder at 0.25 (Défossez et al. 2022, EnCodec, without
    its discriminators).

    Args:
        rate: of the waves, in Hz.
        hop: samples of a frame; the product of the strides.
        codebooks: number of levels K.
        codes: entries of each.
        dim: width of a frame.
        channels: of the first convolution, doubled by each of the next.
        strides: of the convolutions.
        steps: of its training.
        lr: of Adam.
    """

    def __init__(
        self,
        rate: int,
        hop: int,
        codebooks: int = 8,
        codes: int = 1024,
        dim: int = 64,
        channels: int = 16,
        strides: Sequence[int] = (8, 5, 4, 2),
        steps: int = 2000,
        lr: float = 1e-3,
    ) -> None:
        from torchaudio.transforms import MelSpectrogram

        super().__init__()
        total = 1
        for stride in strides:
            total *= stride
        if total != hop:
            raise DataError(
                f"strides of {list(strides)} for a hop of {hop}", expected="their product"
            )
        self.codebooks, self.codes, self.steps, self.lr = codebooks, codes, steps, lr
        widths = [1, *(channels * 2**level for level in range(len(strides) - 1)), dim]
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            encoder += [_Strided(before, after, stride), nn.ELU()]
            decoder = [nn.ELU(), nn.ConvTranspose1d(after, before, stride, stride), *decoder]
        self.encoder, self.decoder = nn.Sequential(*encoder[:-1]), nn.Sequential(*decoder[1:])
        self.quantizer = ResidualQuantizer(dim, codebooks, codes)
        self.mels = nn.ModuleList(
            MelSpectrogram(rate, size, hop_length=size // 4, n_mels=bands)
            for size, bands in ((256, 20), (512, 40), (1024, 64))
        )
        self.hop = hop
        self.requires_grad_(False).eval()

    def fit(self, waves: Iterable[Float[Tensor, "batch samples"]]) -> None:
        """Trains for `steps` batches, going through the waves as often as it takes."""
        clips = list(waves)
        self.requires_grad_(True).train()
        optimizer = torch.optim.Adam(self.parameters(), self.lr)
        with torch.enable_grad():
            for step in range(self.steps):
                wave = clips[step % len(clips)]
                optimizer.zero_grad()
                self.loss(wave).backward()
                optimizer.step()
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "AutoencoderTeacher":
        """Only `fit` trains it: in the student's training its codes stay as they are."""
        return super().train(mode and next(self.parameters()).requires_grad)

    def loss(self, wave: Float[Tensor, "batch samples"]) -> Float[Tensor, ""]:
        """Distance of what comes back from what was given, and the commitment."""
        wave = wave[:, : wave.shape[1] // self.hop * self.hop]
        quantized = self.quantizer(self.encoder(wave[:, None]).transpose(1, 2))
        back = self.decoder(quantized.rows.transpose(1, 2))[:, 0]
        spectral = sum(
            F.l1_loss(mel(back).clamp_min(_FLOOR).log(), mel(wave).clamp_min(_FLOOR).log())
            for mel in self.mels
        )
        return spectral + F.l1_loss(back, wave) + 0.25 * quantized.commitment

    @torch.no_grad()
    def encode(self, wave: Float[Tensor, "batch samples"]) -> Int64[Tensor, "batch time codebooks"]:
        """(B, samples // hop, K) codes."""
        wave = wave[:, : wave.shape[1] // self.hop * self.hop]
        with torch.autocast(wave.device.type, enabled=False):
            return self.quantizer.encode(self.encoder(wave.float()[:, None]).transpose(1, 2))


class EncodecTeacher(nn.Module):
    """EnCodec of transformers with weights of the user: the teacher of the published MERT v1.

    At 24 kHz and 6 kbit/s it gives 8 codes of 1024, 75 times a second.

    Args:
        rate: of the waves, in Hz, the codec's own.
        hop: samples of a frame, the codec's own.
        weights: folder of the weights, as `EncodecModel.save_pretrained` writes it; read by `fit`.
        bandwidth: kbit/s, which decides the number of codebooks.
        config: changes to the published 24 kHz configuration, for other codecs.

    Raises:
        DataError: rate and hop are not those of the codec.
    """

    def __init__(
        self,
        rate: int,
        hop: int,
        weights: str | None = None,
        bandwidth: float = 6.0,
        config: dict[str, Any] | None = None,
    ) -> None:
        from transformers import EncodecConfig, EncodecModel

        super().__init__()
        settings = EncodecConfig(**(config or {}))
        own_hop = rate / settings.frame_rate
        if settings.sampling_rate != rate or own_hop != hop:
            raise DataError(
                f"waves at {rate} Hz with {hop} samples a frame",
                expected=f"those of the codec: {settings.sampling_rate} Hz, "
                f"{settings.sampling_rate / settings.frame_rate:g} samples",
            )
        self.codec = EncodecModel(settings).requires_grad_(False).eval()
        self.weights, self.bandwidth = weights, bandwidth
        self.codes = settings.codebook_size
        self.codebooks = self.codec.quantizer.get_num_quantizers_for_bandwidth(bandwidth)

    def fit(self, waves: Iterable[Float[Tensor, "batch samples"]]) -> None:
        """Reads the weights; the waves are not looked at.

        Raises:
            DataError: no weights were named, or they are not of this codec.
        """
        from transformers import EncodecModel

        if self.weights is None:
            raise DataError(
                "a codec without weights",
                fix="give system.teacher.weights=DIR, as EncodecModel.save_pretrained writes it",
            )
        if not Path(self.weights).is_dir():
            raise DataError("no such folder", path=self.weights, expected="weights of EnCodec")
        try:
            read = EncodecModel.from_pretrained(self.weights, local_files_only=True)
            self.codec.load_state_dict(read.state_dict())
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(line.strip() for line in str(error).splitlines()[:3])
            raise DataError(
                f"cannot be read as weights of this codec: {reason}",
                path=self.weights,
                fix="give their changes of the configuration as system.teacher.config",
            ) from error

    @torch.no_grad()
    def encode(self, wave: Float[Tensor, "batch samples"]) -> Int64[Tensor, "batch time codebooks"]:
        """(B, about samples / hop, K) codes."""
        with torch.autocast(wave.device.type, enabled=False):
            chunks = self.codec.encode(wave.float()[:, None], bandwidth=self.bandwidth).audio_codes
        # (chunks, B, K, T); a codec without chunks gives one.
        return chunks[0].transpose(1, 2)


class _Strided(nn.Module):
    """A strided convolution that sees half a stride more on either side."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.padding = (stride - stride // 2, stride // 2)
        self.convolution = nn.Conv1d(before, after, 2 * stride, stride)

    def forward(self, x: Float[Tensor, "batch before time"]) -> Float[Tensor, "batch after frames"]:
        """(B, after, time // stride)."""
        convolved: Tensor = self.convolution(F.pad(x, self.padding))
        return convolved
