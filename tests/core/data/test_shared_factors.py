from pathlib import Path

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from core.data.shared_factors import write_shared_factors
from core.data.table import load_table


def test_the_label_is_in_every_modality_and_more_so_in_all(tmp_path: Path) -> None:
    write_shared_factors(tmp_path, n_train=2000)
    data = load_table(tmp_path)
    assert data.shapes == {"one": [24], "two": [24], "three": [24]}
    assert data.n_classes == {"label": 8}
    train, test = data.splits["train"], data.splits["test"]
    assert (len(train), len(data.splits["valid"]), len(test)) == (2000, 200, 1000)
    label = data.labels["label"]

    def accuracy(x: torch.Tensor) -> float:
        probe = LinearDiscriminantAnalysis().fit(x[train], label[train])
        return probe.score(x[test], label[test])

    alone = [accuracy(x) for x in data.inputs.values()]
    together = accuracy(torch.cat(list(data.inputs.values()), 1))
    assert min(alone) > 0.3
    assert max(alone) + 0.1 < together < 0.98


def test_modalities_share_the_lesser_factor_beyond_the_label(tmp_path: Path) -> None:
    write_shared_factors(tmp_path, noise=0.0)
    data = load_table(tmp_path)
    label = data.labels["label"]
    of_class = label == 0
    one, two = (data.inputs[name][of_class] for name in ("one", "two"))
    # Samples of one class that are close in one modality are close in the other.
    near = [torch.cdist(x, x).numpy()[np.triu_indices(len(x), 1)] for x in (one, two)]
    assert np.corrcoef(*near)[0, 1] > 0.4
