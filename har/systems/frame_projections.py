"""Learning without augmenting: the views are projections on a basis and on a frame.

Demirel and Holz, "Learning Without Augmenting: Unsupervised Time Series Representation Learning
via Frame Projections", NeurIPS 2025 (arXiv 2510.22655). A window, its Fourier coefficients and its
scalogram are encoded each by an encoder of its own and contrasted with each other; small mappers
give back from the representation of the window what the other two encoders would say.

Differs from the authors' code: AdamW in float32 for Adam in float16, and weight decay spares norms
and biases; a checkpoint is chosen by validation, not by the training loss; the linear layer is a
logistic regression whose penalty is chosen by validation (`har.task`), not trained by Adam; the
residual blocks of the Fourier encoder are those of the time encoder, as the paper does not say
which.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import l1_loss, normalize

from core.augment.projections import fourier, geometric_scales, morlet_spectra, scalogram
from core.data.checks import DataError
from core.data.resident import ResidentLoader
from core.distributed import global_mean, row_counts
from core.encoders.build import build_encoder
from core.encoders.latent_mapper import LatentMapper
from core.encoders.mlp import ProjectionHead
from core.losses import nt_xent
from core.losses.precision import full_precision
from core.trainers.callbacks import Validate
from core.trainers.system import Batch, System

_ROWS = 1024  # that are encoded at a time, outside of training
_ENCODERS = {
    "time": {"_target_": "core.encoders.resnet1d.ResNet1D"},
    "gabor": {"_target_": "core.encoders.scalogram_convolutions.ScalogramConvNet"},
    "fourier": {"_target_": "core.encoders.spectrum_convolutions.SpectrumConvNet"},
}


@full_precision
def mapping_loss(
    mapped: Float[Tensor, "batch dim"], true: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """Mean absolute difference over the rows of all processes, divided by their number B again.

    The authors divide what is a mean already, so that the term fades in large batches.
    """
    return global_mean((mapped - true).abs()) / sum(row_counts(len(true)))


class FrameProjections(System):
    """NT-Xent between time, Gabor and Fourier views in pairs, and L1 of the mapped time view.

    The read-out concatenates the representation of the window with what two further mappers make
    of it. Those are fitted by L1 to the representations of the frozen encoders whenever the
    training is about to be validated and at its end, from scratch, on all training windows, with
    the optimizer, the schedule and the epochs of the training; no gradient of theirs reaches an
    encoder. Before the first of these moments they are random.

    Args:
        shapes: modality -> shape of one sample; one series (channels, time).
        encoder: of the window, see `core.encoders.build`; None is the paper's ResNet.
        gabor_encoder: of the scalogram (channels, scales, time); None is the paper's.
        fourier_encoder: of amplitudes and phases (twice the channels, bins); None is the paper's.
        n_scales: of the scalogram, geometric from 1.
        largest_scale: the last of them.
        hidden_dim: width inside the projection heads, one a view.
        dim: width of the projections.
        temperature: a divisor of the cosines.
        mapper_channels: hidden channels of the mappers that are trained with the encoders.
        readout_channels: hidden channels of the mappers of the read-out.
        readout: what `embed` gives: the representation of the window alone (`time`, as wide as
            the encoder), with the mapped ones of the others (`mappers`, the paper's, three times
            as wide), or with those of the two other encoders themselves (`encoders`, as wide).

    Raises:
        DataError: there are several modalities, or no series; the encoders differ in width, or it
            is odd; the read-out is none of these.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        encoder: dict[str, Any] | None = None,
        gabor_encoder: dict[str, Any] | None = None,
        fourier_encoder: dict[str, Any] | None = None,
        n_scales: int = 48,
        largest_scale: float = 128.0,
        hidden_dim: int = 128,
        dim: int = 128,
        temperature: float = 0.15,
        mapper_channels: int = 64,
        readout_channels: int = 1,
        readout: Literal["time", "mappers", "encoders"] = "mappers",
    ) -> None:
        super().__init__()
        if readout not in ("time", "mappers", "encoders"):
            raise DataError(f"system.readout={readout}", expected="time, mappers or encoders")
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.modality = next(iter(shapes))
        shape = self.shapes[self.modality]
        if len(shapes) > 1 or len(shape) != 2:
            raise DataError(
                "FrameProjections of "
                + ", ".join(f"{name} {own}" for name, own in self.shapes.items()),
                expected="one modality, of series (channels, time)",
                fix="name it: data.modalities=[imu]",
            )
        channels, time = shape
        # Not a buffer: processes need not exchange it, and half precision must not round it.
        scales = geometric_scales(n_scales, largest_scale)
        self.spectra = morlet_spectra(time, scales).to(torch.complex64)
        configs = {"time": encoder, "gabor": gabor_encoder, "fourier": fourier_encoder}
        sizes = {
            "time": [channels, time],
            "gabor": [channels, n_scales, time],
            "fourier": [2 * channels, time // 2 + 1],
        }
        self.encoders = nn.ModuleDict(
            {
                view: build_encoder(config or _ENCODERS[view], sizes[view])
                for view, config in configs.items()
            }
        )
        widths = {view: int(own.dim) for view, own in self.encoders.items()}  # type: ignore[arg-type]
        if len(set(widths.values())) > 1 or widths["time"] % 2:
            raise DataError(
                "encoders of widths " + ", ".join(f"{view} {n}" for view, n in widths.items()),
                expected="one even width, for mappers from one to the others",
            )
        self.heads = nn.ModuleDict(
            {view: ProjectionHead(n, hidden_dim, dim) for view, n in widths.items()}
        )
        self.mappers = _mappers(mapper_channels)
        self.readout_mappers = _mappers(readout_channels).requires_grad_(False)
        self.temperature, self.readout = temperature, readout
        self.readout_channels = readout_channels

    # -- training ----------------------------------------------------------------------------------

    @torch.no_grad()
    def views(self, series: Float[Tensor, "batch channels time"]) -> dict[str, Tensor]:
        """The window itself, its scalogram and its Fourier coefficients."""
        if self.spectra.device != series.device:
            self.spectra = self.spectra.to(series.device)
        gabor = scalogram(series, self.spectra)
        return {"time": series, "gabor": gabor, "fourier": fourier(series)}

    def encode(self, series: Float[Tensor, "batch channels time"]) -> dict[str, Tensor]:
        """View -> (B, D) representations, by the view's own encoder."""
        return {view: self.encoders[view](x) for view, x in self.views(series).items()}

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Three contrasts and two mappings."""
        h = self.encode(batch[self.modality])
        self.latest = {"features": h["time"].detach()}
        e = {view: normalize(self.heads[view](x).float(), dim=1) for view, x in h.items()}
        terms = objective_terms(e, self.mappers, self.temperature)
        return {"loss": torch.stack(list(terms.values())).sum()} | terms

    # -- the mappers of the read-out ---------------------------------------------------------------

    def update_teachers(self, step: int, total_steps: int) -> None:
        """Fits the mappers of the read-out after the last step of an epoch that is validated."""
        if not self.trainer.is_last_batch:
            return
        epochs, done = int(self.trainer.max_epochs or 1), self.current_epoch + 1
        every = [c.every for c in self.trainer.callbacks if isinstance(c, Validate)]  # type: ignore[attr-defined]
        if done == epochs or any(done % n == 0 for n in every):
            loader: ResidentLoader = self.trainer.train_dataloader  # type: ignore[assignment]
            windows, order = loader.columns[self.modality], loader.order
            self.fit_readout(windows, epochs, order.batch_size, order.seed)

    def fit_readout(
        self, windows: Float[Tensor, "n channels time"], epochs: int, batch_size: int, seed: int
    ) -> None:
        """Fits new mappers from the representations of the windows to those of the other views.

        Every process fits the same ones to all windows. Random streams are left as they were.

        Args:
            windows: those of the training.
            epochs: passes over them.
            batch_size: rows of a step.
            seed: of the initial weights and the order.
        """
        h = self._representations(windows)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not those of the accelerators
            fresh = _mappers(self.readout_channels).to(windows.device)
            orders = [torch.randperm(len(windows)) for _ in range(epochs)]
        optimizer = self.make_optimizer([{"params": list(fresh.parameters())}])
        schedule = self.make_schedule(optimizer, epochs * -(-len(windows) // batch_size))
        with torch.enable_grad():
            for order in orders:
                for rows in order.to(windows.device).split(batch_size):
                    found = mapped(fresh, h["time"][rows])
                    losses = [l1_loss(x, h[view][rows]) for view, x in found.items()]
                    optimizer.zero_grad()
                    torch.stack(losses).sum().backward()
                    optimizer.step()
                    schedule.step()
        self.readout_mappers.load_state_dict(fresh.state_dict())

    @torch.no_grad()
    def _representations(self, windows: Tensor) -> dict[str, Float[Tensor, "n dim"]]:
        modes = {module: module.training for module in self.modules()}
        self.eval()
        parts = [self.encode(some) for some in windows.split(_ROWS)]
        for module, mode in modes.items():
            module.training = mode
        return {view: torch.cat([part[view] for part in parts]).float() for view in parts[0]}

    # -- representations ---------------------------------------------------------------------------

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dims"]]:
        """The representations that `readout` asks for, not of unit length."""
        series = batch[self.modality]
        if self.readout == "encoders":
            h = self.encode(series)
        else:
            h = {"time": self.encoders["time"](series)}
            if self.readout == "mappers":
                h |= mapped(self.readout_mappers, h["time"])
        found = [h[view] for view in ("fourier", "time", "gabor") if view in h]
        return {self.modality: torch.cat(found, 1).float()}

    def project(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """The projections of the windows, raw as they leave the head."""
        h = self.encoders["time"](batch[self.modality])
        return {self.modality: self.heads["time"](h).float()}


def objective_terms(
    e: dict[str, Float[Tensor, "batch dim"]], mappers: nn.ModuleDict, temperature: float
) -> dict[str, Float[Tensor, ""]]:
    """The terms of the objective: views in pairs, then mapped ones and true ones.

    Args:
        e: `time`, `gabor`, `fourier` -> projections of unit length; gradients reach all of them.
        mappers: from `time` to `gabor` and to `fourier`.
        temperature: a divisor of the cosines.
    """
    terms = {
        f"{a}_{b}": nt_xent(e[a], e[b], temperature=temperature)
        for a, b in combinations(("time", "gabor", "fourier"), 2)
    }
    guesses = mapped(mappers, e["time"]).items()
    return terms | {f"to_{view}": mapping_loss(x, e[view]) for view, x in guesses}


def mapped(
    mappers: nn.ModuleDict, time: Float[Tensor, "batch dim"]
) -> dict[str, Float[Tensor, "batch dim"]]:
    """View -> what its mapper makes of the time view."""
    return {view: mapper(time) for view, mapper in mappers.items()}


def _mappers(channels: int) -> nn.ModuleDict:
    return nn.ModuleDict({view: LatentMapper(channels) for view in ("gabor", "fourier")})
