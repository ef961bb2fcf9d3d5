"""MERT: music audio learned from an acoustic and a musical teacher.

MERT: Acoustic Music Understanding Model with Large-Scale Self-supervised Training (Li et al., ICLR
2024, arXiv 2306.00107). Spans of the frames of a wave are replaced by one learned vector; of these
frames the transformer predicts the codes of an acoustic teacher (eq. 2, K codebooks, each with its
own projection) and the constant-Q spectrum (eq. 3).

Differences from the paper and from the authors' code (fairseq, as of the v1 release):

- The acoustic teacher is residual k-means on log-mel patches unless another is named: the weights
  of EnCodec, the teacher of v1, are not part of this project.
- Codebooks have as many rows as there are codes; the authors' have four more, which fairseq keeps
  for special symbols and which only ever are wrong answers.
- The attention relaxation of the 330M recipe (section 3.3) runs; in the release the fast path of
  the attention is taken first and the relaxed branch is never reached.
- The noise mixture happens with the probability `mixture`; the release tests `rand > p`, the same
  at the published 0.5. A batch of one clip has nothing to mix and stays as it is.
  The other clips are those of the same process, as there: several processes mix others than one.
- Masks take no channels, layers are dropped on the device (`core.encoders.waveform`), and shorter
  clips are padded instead of cutting all clips to the shortest: padding changes nothing here, as
  the group norm of the convolutions counts the samples of the clip alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from audio_music.data.cqt import CQT
from audio_music.systems.code_teachers import CodeTeacher
from core.augment.draws import Draws
from core.build import build_part
from core.data.checks import DataError
from core.distributed import all_reduce_sum, global_mean
from core.encoders.span_masks import span_masks
from core.encoders.waveform import CONVOLUTIONS, WaveEncoder
from core.losses import hubert_codebooks
from core.trainers.system import Batch, System

_TEACHER = {"_target_": "audio_music.systems.code_teachers.KMeansTeacher"}
_FIT_CLIPS = 2048  # that a teacher learns from


class MERT(System):
    """Masked prediction of acoustic codes and of the constant-Q spectrum.

    The defaults are those of the 95M model; `size=large` of the config are those of 330M.

    Args:
        rate: of the waves, in Hz.
        convolutions: (channels, kernel, stride) of each; None: the seven published ones.
        dim: width of the frames.
        depth: blocks of the transformer.
        heads: of the attention.
        hidden: width of the feed-forward networks.
        pre_norm: see `core.encoders.waveform.WaveEncoder`.
        relaxation: c of the attention relaxation.
        dropout: of the frames and in the blocks.
        attention_dropout: of the attention weights.
        layer_drop: how often a block is passed over in training.
        feature_gradient: factor of the gradient that reaches the convolutions.
        position_kernel: of the convolution that gives positions.
        position_groups: likewise.
        recompute: first convolutions that keep no activations for the backward pass.
        teacher: `_target_` of a `code_teachers` class and its values.
        code_dim: width d of the projections that are compared with codes.
        temperature: of that comparison.
        cqt_weight: of the musical teacher; 0 is the acoustic teacher alone.
        cqt_fmin: frequency of its first bin, in Hz.
        cqt_bins: number of bins.
        cqt_bins_per_octave: bins of an octave.
        penalty_weight: of the mean square of the convolutions' features.
        mask_probability: p of the spans, see `core.encoders.span_masks`.
        mask_length: frames of a span.
        mixture: how often excerpts of other clips are added to a clip.
        mixture_count: most excerpts of a clip.
        mixture_samples: shortest and longest excerpt.
        mixture_volume: their factor.
        weights: file of published weights to start from, see `mert_weights`.
    """

    def __init__(
        self,
        rate: int,
        *,
        convolutions: Sequence[Sequence[int]] | None = None,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        pre_norm: bool = False,
        relaxation: float | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        layer_drop: float = 0.05,
        feature_gradient: float = 0.1,
        position_kernel: int = 128,
        position_groups: int = 16,
        recompute: int = 0,
        teacher: dict[str, Any] | None = None,
        code_dim: int = 64,
        temperature: float = 0.1,
        cqt_weight: float = 1.0,
        cqt_fmin: float = 32.7,
        cqt_bins: int = 336,
        cqt_bins_per_octave: int = 48,
        penalty_weight: float = 10.0,
        mask_probability: float = 0.8,
        mask_length: int = 5,
        mixture: float = 0.5,
        mixture_count: int = 3,
        mixture_samples: Sequence[int] = (12000, 24000),
        mixture_volume: float = 1.0,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.rate, self.weights, self.temperature = rate, weights, temperature
        self.encoder = WaveEncoder(
            CONVOLUTIONS if convolutions is None else convolutions,
            dim,
            depth,
            heads,
            hidden,
            pre_norm=pre_norm,
            dropout=dropout,
            attention_dropout=attention_dropout,
            layer_drop=layer_drop,
            relaxation=relaxation,
            feature_gradient=feature_gradient,
            position_kernel=position_kernel,
            position_groups=position_groups,
            recompute=recompute,
        )
        hop = self.encoder.convolutions.hop
        self.teacher: CodeTeacher = build_part(teacher or _TEACHER, rate=rate, hop=hop)
        self.cqt = CQT(rate, hop, cqt_fmin, cqt_bins, cqt_bins_per_octave)
        books = self.teacher.codebooks
        self.code_projection = nn.Linear(dim, books * code_dim)
        self.codes = nn.Parameter(torch.rand(books, self.teacher.codes, code_dim))
        self.cqt_head = nn.Linear(dim, cqt_bins)
        self.cqt_weight, self.penalty_weight = cqt_weight, penalty_weight
        self.mask_probability, self.mask_length = mask_probability, mask_length
        self.mixture, self.mixture_count = mixture, mixture_count
        self.mixture_samples, self.mixture_volume = mixture_samples, mixture_volume

    def prepare(self, data: Any) -> None:  # noqa: ANN401 - `audio_music.data.recordings.Recordings`
        """Reads published weights where they are named, and lets the teacher learn.

        Raises:
            DataError: the weights are of another size, or the data bring codes that are not those
                of the teacher.
        """
        for codes in data.codes:
            books, largest = codes.shape[1], int(codes.max(initial=0))
            if books != self.teacher.codebooks or largest >= self.teacher.codes:
                raise DataError(
                    f"codes up to {largest} of {books} codebooks come with the recordings",
                    expected=f"{self.teacher.codes} codes of {self.teacher.codebooks} codebooks",
                    fix="system.teacher={_target_: audio_music.systems.code_teachers.GivenCodes, "
                    f"codebooks: {books}, codes: N}}",
                )
        if self.weights is not None:
            from audio_music.systems.mert_weights import load_published

            load_published(self.encoder, self.weights)
        self.teacher.fit(data.training_waves(_FIT_CLIPS))

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """What is random in a step: the masked frames, and the excerpts that are mixed in."""
        wave, samples = batch["wave"], batch.get("samples")
        n_frames = self.encoder.n_frames(wave.shape[1])
        frames = None
        if samples is not None:
            frames = self.encoder.valid_frames(samples, n_frames).sum(1)
        mask = span_masks(n_frames, draws, self.mask_probability, self.mask_length, frames=frames)
        pool = (len(wave) - 1) * wave.shape[1]
        longest = min(self.mixture_samples[1], wave.shape[1], pool)
        shortest = min(self.mixture_samples[0], longest)
        count = self.mixture_count
        happens = draws.happens(self.mixture, 1)
        many = 1 + (draws.uniform(0, count, 1)).floor().clamp(max=count - 1)
        lengths = shortest + draws.uniform(0, longest - shortest + 1, count).floor()
        starts = (draws.uniform(0, 1, count) * (pool - longest + 1)).floor()
        places = (draws.uniform(0, 1, count) * (wave.shape[1] - lengths + 1)).floor()
        added = happens & (torch.arange(count, device=wave.device) < many)
        lengths = torch.where(added, lengths, 0)
        return {"mask": mask, "mixture": torch.stack([starts, lengths, places], 2).long()}

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 2 summed over the codebooks, eq. 3 and the penalty, a masked frame."""
        wave, samples = batch["wave"], batch.get("samples")
        # Both teachers hear the clean wave.
        codes = batch["codes"] if "codes" in batch else self.teacher.encode(wave)
        cqt = self.cqt(wave)
        if self.mixture:
            longest = min(self.mixture_samples[1], wave.shape[1])
            wave = mixed(wave, batch["mixture"], longest, self.mixture_volume)
        found = self.encoder(wave, samples, batch["mask"])
        last = found.states[-1]
        self.latest = {"features": _mean(last.detach(), found.valid)}
        n_frames = min(last.shape[1], codes.shape[1])
        codes = codes[:, :n_frames]
        frames = batch["mask"][:, :n_frames] & (codes >= 0).all(-1)
        if found.valid is not None:
            frames = frames & found.valid[:, :n_frames]
        return masked_prediction(
            last[:, :n_frames],
            found.features,
            self.code_projection,
            self.codes,
            self.cqt_head,
            codes,
            cqt[:, :n_frames],
            frames,
            found.valid,
            temperature=self.temperature,
            cqt_weight=self.cqt_weight,
            penalty_weight=self.penalty_weight,
        )

    @torch.no_grad()
    def layers(self, batch: Batch) -> Float[Tensor, "batch states dim"]:
        """Mean over time of the input of the first block and of the output of each."""
        found = self.encoder(batch["wave"], batch.get("samples"))
        return torch.stack([_mean(state, found.valid) for state in found.states], 1).float()

    @torch.no_grad()
    def frames(self, batch: Batch) -> Float[Tensor, "batch time states dim"]:
        """All states of all frames; those beyond a wave's end mean nothing."""
        return torch.stack(self.encoder(batch["wave"], batch.get("samples")).states, 2).float()

    def frame_times(self, n_frames: int) -> Float[Tensor, " time"]:
        """Centres of the frames, in seconds."""
        convolutions = self.encoder.convolutions
        centres = torch.arange(n_frames) * convolutions.hop + convolutions.window / 2
        return centres / self.rate

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`audio`: the mean over time and over all states."""
        return {"audio": self.layers(batch).mean(1)}

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Of one clip: its CQT (T, bins), what is predicted of it, and which frames were masked."""
        target = self.cqt(batch["wave"])[0]
        states = self.encoder(batch["wave"], batch.get("samples"), batch["mask"]).states
        predicted = self.cqt_head(states[-1])[0]
        n_frames = min(len(target), len(predicted))
        return target[:n_frames], predicted[:n_frames].float(), batch["mask"][0, :n_frames]


def masked_prediction(
    states: Float[Tensor, "batch time dim"],
    features: Float[Tensor, "batch steps channels"],
    code_projection: nn.Linear,
    code_vectors: Float[Tensor, "codebooks codes code_dim"],
    cqt_head: nn.Linear,
    codes: Int64[Tensor, "batch time codebooks"],
    cqt: Float[Tensor, "batch time bins"],
    frames: Bool[Tensor, "batch time"],
    valid: Bool[Tensor, "batch steps"] | None = None,
    *,
    temperature: float = 0.1,
    cqt_weight: float = 1.0,
    penalty_weight: float = 10.0,
) -> dict[str, Tensor]:
    """The objective of some states, per predicted frame over all processes.

    The codebooks are summed, not averaged; the number of predicted frames n counts once, not for
    each codebook. So the total of the authors, Σ_k CE_k + n (w_p penalty + w_c MSE), is n times
    `loss`.

    Args:
        states: (B, T, D) outputs of the transformer.
        features: (B, steps, C) outputs of the convolutions.
        code_projection: D -> K d.
        code_vectors: (K, N, d).
        cqt_head: D -> bins.
        codes: (B, T, K) of the acoustic teacher.
        cqt: (B, T, bins) of the musical one.
        frames: (B, T) True where the frame is predicted.
        valid: (B, steps) False at features of padding.
        temperature: τ.
        cqt_weight: w_c.
        penalty_weight: w_p.

    Returns:
        `loss`; `codes`: cross entropies summed over the codebooks; `code_K` of each; `cqt`: mean
        squared error; `penalty`: mean square of the features.
    """
    projected = code_projection(states).unflatten(-1, (len(code_vectors), -1))
    sums = hubert_codebooks(projected, code_vectors, codes, frames, temperature)
    each = sums / all_reduce_sum(frames.sum()).clamp(min=1)
    error = (cqt_head(states).float() - cqt).square()
    mse = global_mean(error, frames[..., None].expand_as(error))
    squares = features.float().square()
    counted = None if valid is None else valid[..., None].expand_as(squares)
    penalty = global_mean(squares, counted)
    loss = each.sum() + penalty_weight * penalty + cqt_weight * mse
    terms = {"loss": loss, "codes": each.sum(), "cqt": mse, "penalty": penalty}
    return terms | {f"code_{number}": of for number, of in enumerate(each)}


def mixed(
    wave: Float[Tensor, "batch samples"],
    excerpts: Int64[Tensor, "batch count 3"],
    longest: int,
    volume: float = 1.0,
) -> Float[Tensor, "batch samples"]:
    """Adds excerpts of the other clips of the batch to each clip, without rescaling.

    All excerpts of the batch are one scatter-add; they may cross from one clip into the next, and
    are those of the clean waves.

    Args:
        wave: (B, S) clips.
        excerpts: (B, count, 3) start in the other clips one after the other, `longest` before their
            end at the latest, length (0 for none) and place in the clip.
        longest: bound of the lengths.
        volume: factor of the excerpts.
    """
    n_clips, n_samples = wave.shape
    if n_clips < 2:
        return wave
    start, length, place = excerpts.unbind(-1)
    step = torch.arange(longest, device=wave.device)
    own = n_samples * torch.arange(n_clips, device=wave.device)[:, None]
    # The other clips one after the other are two runs: before one's own, and behind it.
    runs = wave.flatten().unfold(0, longest, 1)
    is_before = step < (own - start)[..., None]
    among_others = torch.where(is_before, runs[start], runs[start + n_samples])
    values = torch.where(step < length[..., None], volume * among_others, 0)
    target = (place[..., None] + step).clamp(max=n_samples - 1)
    return wave.scatter_add(1, target.flatten(1), values.flatten(1))


def _mean(
    x: Float[Tensor, "batch time dim"], valid: Bool[Tensor, "batch time"] | None
) -> Float[Tensor, "batch dim"]:
    if valid is None:
        return x.mean(1)
    return (x * valid[..., None]).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
