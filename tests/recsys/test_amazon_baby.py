"""Methods that need features, from files to metrics on the real interactions of Amazon Baby.

The features are generated, so that no figure of these runs can stand beside one of a paper.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import svds

from tests.recsys.command import recsys

WIDTHS = {"image": 4096, "text": 384}
NOISE = {"image": 1.0, "text": 0.5}


def write_features(folder: Path, rank: int = 64, seed: int = 0) -> None:
    """Writes image_feat.npy and text_feat.npy, made from the training pairs alone.

    The items' factors of a truncated SVD of D_u^-1/2 R D_i^-1/2, each row of length 1, are rotated
    at random into the width of a modality; noise of the given length is added to each row.
    """
    pairs = [np.load(folder / f"{split}.npy") for split in ("train", "valid", "test")]
    n_users, n_items = np.concatenate(pairs, 1).max(1) + 1
    users, items = pairs[0]
    taken = csr_array((np.ones(len(users)), (users, items)), shape=(n_users, n_items))
    scale = [diags_array(1 / np.sqrt(np.maximum(taken.sum(axis), 1))) for axis in (1, 0)]
    draw = np.random.default_rng(seed)
    _, values, right = svds(scale[0] @ taken @ scale[1], k=rank, rng=draw)
    factors = right.T * values
    factors /= np.maximum(np.linalg.norm(factors, axis=1, keepdims=True), 1e-12)
    for modality, width in WIDTHS.items():
        rotation = np.linalg.qr(draw.standard_normal((width, rank)))[0]
        noise = NOISE[modality] / width**0.5 * draw.standard_normal((n_items, width))
        np.save(folder / f"{modality}_feat.npy", (factors @ rotation.T + noise).astype(np.float32))


@pytest.fixture(scope="module")
def home(real_data, tmp_path_factory) -> Path:
    source = real_data / "amazon" / "baby"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(source, folder / "baby")
    write_features(folder / "baby")
    return folder


@pytest.mark.real
def test_generated_features_know_no_held_out_pair(home, tmp_path):
    shutil.copytree(home / "baby", tmp_path / "baby")
    for split in ("valid", "test"):
        held_out = np.load(tmp_path / "baby" / f"{split}.npy")
        # Other pairs of the same users and items.
        held_out[1] = np.random.default_rng(1).permutation(held_out[1])
        np.save(tmp_path / "baby" / f"{split}.npy", held_out)
    write_features(tmp_path / "baby")
    for modality in WIDTHS:
        features = [np.load(f / "baby" / f"{modality}_feat.npy") for f in (home, tmp_path)]
        np.testing.assert_array_equal(*features)


@pytest.mark.claim
@pytest.mark.real
def test_methods_with_features_run_on_real_interactions(home, capsys, request):
    """A few epochs each, on generated features: REARM passes popularity, the others chance."""
    if "claim" not in request.config.getoption("markexpr"):
        pytest.skip("trains for some ten minutes: pytest -m claim")
    assert recsys("data check data.path=baby", home, capsys).code == 0
    recall = {}
    for system, epochs in {"popularity": 1, "bm3": 4, "item_graph": 4, "rearm": 1}.items():
        # The authors train REARM twenty times as slowly as one epoch allows.
        faster = "optimizer.lr=0.001" if system == "rearm" else ""
        line = f"train system={system} data.path=baby trainer.max_epochs={epochs} {faster}"
        answer = recsys(f"{line} hydra.run.dir={system}", home, capsys)
        assert answer.code == 0, answer.err
        metrics = json.loads((home / system / "metrics.json").read_text())
        recall[system] = metrics["test/recall@20"]
    print(recall)
    n_items = 7050
    assert recall["rearm"] > 1.5 * recall["popularity"]
    for system in ("bm3", "item_graph"):
        assert recall[system] > 5 * 20 / n_items
