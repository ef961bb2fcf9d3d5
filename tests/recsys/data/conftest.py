"""Data sets that the tests read."""

from pathlib import Path

import numpy as np
import pytest

from tests.recsys.data.sample_shop import inter_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Interactions with two modalities and titles, in MMRec's files."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.inter").write_text(inter_text())
    rng = np.random.default_rng(0)
    np.save(folder / "image_feat.npy", rng.normal(size=(5, 4)))
    np.save(folder / "text_feat.npy", rng.normal(size=(5, 3)).astype(np.float32))
    (folder / "items.csv").write_text('itemID,title\n0,"Cup, red"\n1,Pot\n2,Pan\n4,Mug\n')
    return folder
