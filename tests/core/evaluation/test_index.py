"""Neighbour indexes: right against brute force, refused when damaged or of other weights."""

import json

import numpy as np
import pytest

from core.data.checks import DataError
from core.evaluation.index import NeighbourIndex


@pytest.fixture(scope="module")
def vectors():
    centres = np.random.default_rng(0).standard_normal((40, 16))
    noise = np.random.default_rng(1).standard_normal((4000, 16))
    return (centres[np.arange(4000) % 40] + 0.5 * noise).astype(np.float32)


def test_exact_is_brute_force(vectors):
    index = NeighbourIndex({"items": vectors}, source="w", kind="exact")
    scores, rows = index.search("items", vectors[:9], 7)
    product = vectors[:9] @ vectors.T
    np.testing.assert_array_equal(rows, np.argsort(-product, axis=1)[:, :7])
    np.testing.assert_allclose(scores, -np.sort(-product, axis=1)[:, :7], rtol=1e-5)


@pytest.mark.parametrize(("kind", "least"), [("hnsw", 0.95), ("ivf", 0.6)])
def test_recall_is_the_share_of_exact_neighbours(vectors, kind, least):
    index = NeighbourIndex({"items": vectors}, source="w", kind=kind)
    product = vectors[:50] @ vectors.T
    exact = np.argsort(-product, axis=1)[:, :10]
    found = index.search("items", vectors[:50], 10)[1]
    by_hand = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert index.recall("items", vectors, vectors[:50], 10) == pytest.approx(by_hand, abs=0.01)
    assert by_hand >= least


def test_what_is_read_finds_what_was_written(vectors, tmp_path):
    index = NeighbourIndex({"items": vectors, "users": vectors[:100]}, source="w")
    index.write(tmp_path / "index")
    read = NeighbourIndex.read(tmp_path / "index", source="w")
    for space in ("items", "users"):
        for ours, theirs in zip(
            index.search(space, vectors[:5], 3), read.search(space, vectors[:5], 3), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_an_index_of_other_weights_is_refused(vectors, tmp_path):
    NeighbourIndex({"items": vectors}, source="w").write(tmp_path)
    with pytest.raises(DataError, match="other weights"):
        NeighbourIndex.read(tmp_path, source="v")


def test_a_folder_without_index_is_refused(tmp_path):
    with pytest.raises(DataError, match="not an index"):
        NeighbourIndex.read(tmp_path, source="w")


@pytest.mark.parametrize("damage", ["truncated", "missing", "not_json", "no_source"])
def test_a_damaged_index_is_refused(vectors, tmp_path, damage):
    NeighbourIndex({"items": vectors[:500]}, source="w").write(tmp_path)
    file, note = tmp_path / "items.faiss", tmp_path / "index.json"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "missing":
        file.unlink()
    elif damage == "not_json":
        note.write_text("{")
    else:
        note.write_text(json.dumps({"kind": "hnsw", "spaces": ["items"]}))
    with pytest.raises(DataError, match="damaged index") as error:
        NeighbourIndex.read(tmp_path, source="w")
    assert str(tmp_path) in str(error.value)


def test_an_unknown_kind_is_refused(vectors):
    with pytest.raises(DataError, match="index_kind=annoy"):
        NeighbourIndex({"items": vectors}, source="w", kind="annoy")
