import numpy as np
import pytest
import torch

from core.data.checks import DataError
from core.evaluation.mutual_information import corrected_mutual_information
from recsys.data.entity_demo import generate_entities, write_entity_demo


def test_the_generator_is_as_described():
    data = generate_entities(1)
    assert data.pairs.shape == (4000, 6)
    assert all(len(set(row)) == 6 for row in data.pairs.tolist())
    counts = np.bincount(data.pairs[:, :3].ravel(), minlength=3000)
    assert 0.2 < (counts == 0).mean() < 0.4
    assert np.sort(counts)[-300:].sum() > 0.5 * counts.sum()
    # Recodings of one factor tell much about each other, and little about the other factor.
    for shared in (True, False):
        codes = torch.from_numpy(generate_entities(1, shared_topic=shared).item_features)
        information = corrected_mutual_information(codes, torch.Generator().manual_seed(0))
        within = [information[a, b].item() for a, b in ((0, 1), (0, 2), (1, 2), (3, 4), (4, 5))]
        across = information[:3, 3:]
        assert min(within) > 1.2
        assert across.max() < 0.7 * min(within)
        assert (across.max() < 0.05) == (not shared)


def test_items_are_taken_by_topic_and_popularity():
    data = generate_entities(2)
    asked = data.query_features[:, 0]
    matches = data.topic[data.pairs] == asked[:, None]
    # One in sixty by chance; a query names a wrong topic one time in ten.
    assert 0.2 < matches.mean() < 0.6
    counts = np.sort(np.bincount(data.pairs.ravel(), minlength=3000))[::-1]
    assert counts[0] > 20 * counts[300] > 0


def test_files_of_somebody_else_stay(tmp_path):
    (tmp_path / "items.parquet").write_text("mine")
    with pytest.raises(DataError, match="already exists and holds other files"):
        write_entity_demo(tmp_path, n_queries=20, n_items=10)
    assert (tmp_path / "items.parquet").read_text() == "mine"


def test_an_earlier_demo_is_replaced_and_equal_seeds_give_equal_files(tmp_path):
    folder, other = tmp_path / "demo", tmp_path / "other"
    write_entity_demo(folder, seed=1, n_queries=20, n_items=10)
    write_entity_demo(folder, seed=0, n_queries=20, n_items=10)
    write_entity_demo(other, seed=0, n_queries=20, n_items=10)
    for file in other.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()
