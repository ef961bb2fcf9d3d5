"""Pairs of nearly equal images: which statement is of which (MMVP, CVPR 2024)."""

from jaxtyping import Bool, Float
from torch import Tensor


def pair_probabilities(
    images: Float[Tensor, "pairs 2 dim"], texts: Float[Tensor, "pairs 2 dim"], scale: float = 100.0
) -> Float[Tensor, "pairs 2 2"]:
    """Of each statement, how probable it is that it is of either image of its pair.

    Args:
        images: unit embeddings of both images of a pair.
        texts: unit embeddings of their statements.
        scale: of the cosines before the softmax over the two images.

    Returns:
        (pair, image, statement), from 0 to 1, with the sum 1 over the images.
    """
    return (scale * images @ texts.mT).softmax(1)


def pairs_told_apart(probabilities: Float[Tensor, "pairs 2 2"]) -> Bool[Tensor, " pairs"]:
    """Whether both statements of a pair chose their own image, with more than one half."""
    return (probabilities.diagonal(dim1=1, dim2=2) > 0.5).all(1)
