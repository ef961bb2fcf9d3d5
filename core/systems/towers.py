"""What methods that compare modalities share: an encoder for each, and one space for all."""

from collections.abc import Sequence
from math import prod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from core.data.checks import DataError
from core.encoders.build import build_encoder
from core.trainers.system import Batch, System


class Flat(nn.Module):
    """The sample itself as one vector: for features that are frozen already."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.dim = prod(shape)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        """All numbers of every sample."""
        return x.flatten(1)


class Towers(System):
    """An encoder for each modality, with a linear map into the common space.

    Args:
        shapes: modality -> shape of one sample.
        encoder: `_target_` and arguments of the encoders, or modality -> such; each is also given
            the shape. None chooses by the shape, see `core.encoders.build`.
        dim: width of the common space.
        layer_norm: end each tower in a LayerNorm.
        normalize: bring the embeddings to unit length.

    Raises:
        DataError: fewer than two modalities, or encoders of others.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        encoder: dict[str, Any] | None,
        dim: int,
        layer_norm: bool,
        normalize: bool,
    ) -> None:
        super().__init__()
        if len(shapes) < 2:
            raise DataError(
                f"{type(self).__name__} of one modality, {', '.join(shapes)}",
                expected="two modalities or more",
            )
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.normalize = normalize
        towers = {}
        for name, own in encoder_of_each(encoder, shapes).items():
            trunk = build_encoder(own, shapes[name])
            norm = nn.LayerNorm(dim) if layer_norm else nn.Identity()
            towers[name] = nn.Sequential(trunk, nn.Linear(trunk.dim, dim), norm)  # type: ignore[arg-type]
        self.towers = nn.ModuleDict(towers)

    def encode(self, batch: Batch) -> list[Float[Tensor, "batch dim"]]:
        """The embeddings in the order of the modalities."""
        vectors = [tower(batch[name]) for name, tower in self.towers.items()]
        return [normalize(x, dim=1) for x in vectors] if self.normalize else vectors

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Modality -> embeddings, of unit length if `normalize`."""
        return dict(zip(self.towers, (x.float() for x in self.encode(batch)), strict=True))


def encoder_of_each(
    encoder: dict[str, Any] | None, shapes: dict[str, Sequence[int]]
) -> dict[str, dict[str, Any] | None]:
    """The config of each modality's encoder, from one for all or one for each.

    Raises:
        DataError: encoders are named for some modalities only, or for others.
    """
    if encoder is None or "_target_" in encoder:
        return dict.fromkeys(shapes, encoder)
    if encoder.keys() != shapes.keys():
        raise DataError(
            f"system.encoder for {', '.join(encoder)}",
            expected=f"one with _target_ for all, or one each of {', '.join(shapes)}",
        )
    return {name: encoder[name] for name in shapes}
