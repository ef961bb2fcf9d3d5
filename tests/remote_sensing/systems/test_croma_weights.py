"""The published weights of CROMA, against the published encoders written out plainly."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.data.checks import DataError
from remote_sensing.systems.croma_weights import read_published
from tests.remote_sensing.systems.published_croma import Plain, published_weights

Weights = dict[str, dict[str, torch.Tensor]]


def _weights() -> Weights:
    return published_weights(dim=32, depth=4, patch=8, bands={"s1": 2, "s2": 12})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(_weights(), tmp_path / "CROMA_base.pt")
    return tmp_path / "CROMA_base.pt"


def test_published_weights_give_the_published_features(file: Path) -> None:
    system = read_published(file).eval()
    radar, optical = torch.rand(3, 2, 24, 32), torch.rand(3, 12, 24, 32)
    expected = Plain(_weights(), patch=8, heads=16)(radar, optical)
    batch = {"optical": optical, "radar": radar}
    with torch.no_grad():
        vectors, tokens = system.embed(batch), system.tokens(batch)
        found = {f"{name}_tokens": of for name, of in tokens.items()} | vectors
        unit = system.project(batch)
    assert found.keys() == expected.keys()
    for name, of in expected.items():
        torch.testing.assert_close(found[name], of, rtol=1e-4, atol=1e-4)
        assert of.abs().mean() > 0.1
    for name in ("optical", "radar"):  # the file has no projections
        torch.testing.assert_close(
            unit[name], torch.nn.functional.normalize(vectors[name], dim=1), rtol=1e-4, atol=1e-5
        )


def _without(weights: Weights) -> object:
    del weights["s2_encoder"]["transformer.layers.2.0.to_out.bias"]
    return weights


def _longer(weights: Weights) -> object:
    weights["joint_encoder"]["layers.2.0.to_out.bias"] = torch.zeros(32)
    return weights


def _odd(weights: Weights) -> object:
    weights["joint_encoder"]["norm_out.bias"] = torch.zeros(33)
    return weights


def _unsplit(weights: Weights) -> object:
    del weights["s1_GAP_FFN"]
    return weights


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without, "no transformer.layers.2.0.to_out.bias"),
        (_longer, "unknown layers.2.0.to_out.bias"),
        (_odd, "norm.bias"),
        (_unsplit, "s1_GAP_FFN"),
        (lambda weights: [weights], "no dict"),
        (lambda weights: {"state_dict": weights["s1_encoder"]}, "KeyError 's1_encoder'"),
    ],
)
def test_other_files_are_named(
    tmp_path: Path, change: Callable[[Weights], object], said: str
) -> None:
    torch.save(change(_weights()), tmp_path / "other.pt")
    with pytest.raises(DataError, match=said) as error:
        read_published(tmp_path / "other.pt")
    assert "other.pt" in str(error.value)


def test_what_is_no_file_of_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not weights")
    for name in ("text.pt", "missing.pt"):
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            read_published(tmp_path / name)
