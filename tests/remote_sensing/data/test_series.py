from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.checks import DataError
from remote_sensing.data.series import load_series, write_scaling
from remote_sensing.data.series_files import write_fields

N = 40


def fields(**changed) -> dict[str, np.ndarray]:
    """Two sensors far from the mean 0, one with missing steps, and a vector."""
    rng = np.random.default_rng(0)
    s2 = 1000 + 300 * rng.standard_normal((N, 6, 3))
    s2[:, 0] = np.nan  # dates before the first
    s2[3, 2, 1] = np.nan
    found = {
        "S1": -12 + 2 * rng.standard_normal((N, 6, 2)),
        "S2": s2,
        "S2VI": 0.5 + 0.1 * rng.standard_normal((N, 6, 1)),
        "DEM": 300 + rng.standard_normal((N, 2)),
        "target": np.arange(N) % 3,
        "train_mask": np.arange(N) < 30,
        "identifier": np.array([f"parcel {i}" for i in range(N)]),
    }
    return {k: v for k, v in (found | changed).items() if v is not None}


def write(path: Path, names: dict[str, list[str]] | None = None, **changed) -> Path:
    write_fields(path / "series.npz", fields(**changed), names)
    return path


def test_missing_values_become_the_mean_and_not_the_other_way_round(tmp_path: Path) -> None:
    data = load_series(write(tmp_path), ["S2"])
    x, raw = data.inputs["S2"], fields()["S2"]
    assert x.shape == (N, 3, 6)
    assert (x[:, :, 0] == 0).all()
    assert x[3, 1, 2] == 0
    train = raw[data.splits["train"].numpy()].reshape(-1, 3)
    mean, std = np.nanmean(train, 0), np.nanstd(train, 0)
    assert (mean > 900).all()  # a NaN filled first would have drawn it down
    expected = ((raw - mean) / std).transpose(0, 2, 1)
    np.testing.assert_allclose(x[:, :, 1:][:3], expected[:, :, 1:][:3], rtol=1e-4, atol=1e-5)
    for name, i in (("S2", 0), ("S2", 1)):
        np.testing.assert_allclose(data.scaling[name][i], (mean, std)[i])


def test_the_moments_are_those_of_the_training_rows(tmp_path: Path) -> None:
    changed = fields()["S1"]
    changed[30:] += 1e4
    one = load_series(write(tmp_path), ["S1"])
    (tmp_path / "other").mkdir()
    other = load_series(write(tmp_path / "other", S1=changed), ["S1"])
    train = one.splits["train"]
    assert torch.equal(one.inputs["S1"][train], other.inputs["S1"][train])
    flat = one.inputs["S1"][train].transpose(1, 2).reshape(-1, 2)
    torch.testing.assert_close(flat.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(flat.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_stored_statistics_come_first_and_those_of_a_run_before_them(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "stats").mkdir()
    stored = {"mean": np.array([-10.0, -20.0]), "std": np.array([2.0, 4.0])}
    write_fields(tmp_path / "stats" / "stats_S1.nc", stored, first_axis="feature")
    raw = fields()["S1"]
    data = load_series(tmp_path, ["S1"])
    expected = ((raw - stored["mean"]) / stored["std"]).transpose(0, 2, 1)
    np.testing.assert_allclose(data.inputs["S1"], expected, rtol=1e-5, atol=1e-6)
    given = tmp_path / "stats" / "scaling.npz"
    write_scaling({"S1": (np.zeros(2), np.array([1.0, 10.0])), "S2": (np.zeros(3),) * 2}, given)
    data = load_series(tmp_path, ["S1"], scaling=str(given))
    np.testing.assert_allclose(data.inputs["S1"][:, 1], raw[..., 1] / 10, rtol=1e-5)
    with pytest.raises(DataError, match=r"scaling\.npz: no means and deviations of S2VI"):
        load_series(tmp_path, ["S2VI"], scaling=str(given))


def test_a_run_refuses_other_classes_and_features(tmp_path: Path) -> None:
    given = tmp_path / "scaling.npz"
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", {"target_names": ["a", "b", "c"]})
    s1 = (np.zeros(2), np.ones(2))
    for names in (["a", "b", "c"], [], ["0", "1", "2"]):
        write_scaling({"S1": s1}, given, names)
        assert load_series(tmp_path / "data", ["S1"], scaling=str(given)).n_outputs == 3
    write_scaling({"S1": s1}, given, ["b", "a", "c"])
    with pytest.raises(DataError, match=r"the target is of a, b, c\n.*b, a, c, in this order"):
        load_series(tmp_path / "data", ["S1"], scaling=str(given))
    write_scaling({"S1": (np.zeros(1), np.ones(1))}, given)
    with pytest.raises(DataError, match=r"S1 has 2 features\n.*the 1 that"):
        load_series(tmp_path / "data", ["S1"], scaling=str(given))


def test_names_of_some_classes_are_none(tmp_path: Path) -> None:
    data = load_series(write(tmp_path, {"target_names": ["crop"]}), ["S1"])
    assert data.classes == {}
    assert data.n_outputs == 3


def test_names_joined_stand_side_by_side(tmp_path: Path) -> None:
    write(tmp_path, {"view_names": ["S1", "S2_S2VI"]})
    data = load_series(tmp_path)
    assert data.shapes == {"S1": [2, 6], "S2_S2VI": [4, 6]}
    apart = load_series(tmp_path, ["S2", "S2VI", "DEM"])
    assert apart.shapes["DEM"] == [2]
    joined = torch.cat([apart.inputs["S2"], apart.inputs["S2VI"]], 1)
    assert torch.equal(data.inputs["S2_S2VI"], joined)
    assert not torch.equal(data.inputs["S2_S2VI"][:, 0], data.inputs["S2_S2VI"][:, 1])
    with pytest.raises(DataError, match=r"no modality S2_S3\n.*S1, S2, S2VI, DEM"):
        load_series(tmp_path, ["S2_S3"])
    with pytest.raises(DataError, match=r"the parts of S2_DEM have the shapes \[6, 3\], \[2\]"):
        load_series(tmp_path, ["S2_DEM"])


def test_images_have_their_bands_first_and_series_of_images_all_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    aerial, stack = rng.standard_normal((N, 8, 9, 4)), rng.standard_normal((N, 5, 2, 2, 3))
    write(tmp_path, aerial=aerial, stack=stack)
    data = load_series(tmp_path, ["aerial", "stack"])
    assert data.shapes == {"aerial": [4, 8, 9], "stack": [12, 5]}
    mean, std = data.scaling["stack"]
    assert mean.shape == (3,)  # of a band, not of a pixel's band
    expected = ((stack - mean) / std)[7, 4].reshape(-1)
    np.testing.assert_allclose(data.inputs["stack"][7, :, 4], expected, rtol=1e-4, atol=1e-5)
    mean, std = data.scaling["aerial"]
    expected = ((aerial - mean) / std)[7, 2, 3]
    np.testing.assert_allclose(data.inputs["aerial"][7, :, 2, 3], expected, rtol=1e-4, atol=1e-5)


def test_what_is_predicted(tmp_path: Path) -> None:
    shares = np.array([[0.07, 0.9, 0.0]] * 20 + [[0.08, 0.0, 0.0]] * 20)
    moisture = np.linspace(60, 180, N)
    for name, target, kind in (
        ("c", np.arange(N) % 3, "classes"),
        ("l", shares, "labels"),
        ("v", moisture, "values"),
    ):
        (tmp_path / name).mkdir()
        names = {"target_names": ["a", "b", "c"] if name != "v" else ["percent(t)"]}
        data = load_series(write(tmp_path / name, names, target=target), ["S1"])
        assert data.kind == kind
        if kind == "classes":
            assert data.classes == {"label": ["a", "b", "c"]}
            assert data.n_outputs == 3
            assert "target" not in data.columns("train")
        elif kind == "labels":
            assert data.targets[0].tolist() == [0, 1, 0]
            assert data.targets[-1].tolist() == [1, 0, 0]
            assert data.n_outputs == 3
        else:
            assert data.target_names == ["percent(t)"]
            torch.testing.assert_close(data.targets[:, 0], torch.from_numpy(moisture).float())
            rows = data.splits["train"]
            assert torch.equal(data.columns("train")["target"], data.targets[rows])
    as_classes = load_series(
        write(tmp_path / "v", target=(np.arange(N) % 2).astype(float)), ["S1"], target="classes"
    )
    assert as_classes.kind == "classes"
    with pytest.raises(DataError, match="not made of whole numbers"):
        load_series(write(tmp_path / "v", target=moisture), ["S1"], target="classes")
    with pytest.raises(DataError, match="3 columns, which cannot be values"):
        load_series(tmp_path / "l", ["S1"], target="values")
    moisture[3] = np.nan
    with pytest.raises(DataError, match="something else than finite numbers"):
        load_series(write(tmp_path / "v", target=moisture), ["S1"])


def test_folds_take_turns_and_leave_out_what_is_not_for_training(tmp_path: Path) -> None:
    write(tmp_path)
    tests, order = [], []
    for fold in range(5):
        data = load_series(tmp_path, ["S1"], split="folds", fold=fold, n_folds=5)
        rows = {name: {data.ids[i] for i in of.tolist()} for name, of in data.splits.items()}
        assert [len(of) for of in rows.values()] == [22, 2, 6]
        assert not rows["train"] & rows["valid"]
        assert not (rows["train"] | rows["valid"]) & rows["test"]
        tests.append(rows["test"])
        order += data.ids
    assert set.union(*tests) == {f"parcel {i}" for i in range(30)} == set(order)
    assert sum(map(len, tests)) == 30
    again = load_series(tmp_path, ["S1"], split="folds", fold=4, n_folds=5)
    assert again.digest() == data.digest()
    other = load_series(tmp_path, ["S1"], split="folds", fold=4, n_folds=5, seed=1)
    assert other.digest() != data.digest()
    with pytest.raises(DataError, match=r"data\.fold=5 of data\.n_folds=5"):
        load_series(tmp_path, ["S1"], split="folds", fold=5, n_folds=5)


def test_the_published_protocol_validates_on_the_test_rows(tmp_path: Path) -> None:
    write(tmp_path)
    data = load_series(tmp_path, ["S1"], valid_share=0)
    assert data.splits["test"].tolist() == list(range(30, 40))
    assert torch.equal(data.splits["valid"], data.splits["test"])
    training = data.without_test()
    assert len(training.splits["valid"]) == 10
    assert len(training.splits["test"]) == 0
    inner = load_series(tmp_path, ["S1"])
    assert [len(of) for of in inner.splits.values()] == [27, 3, 10]


def test_a_split_in_the_file_goes_before_the_mask(tmp_path: Path) -> None:
    split = np.array(["test"] * 5 + ["valid"] * 5 + ["train"] * 30)
    data = load_series(write(tmp_path, split=split), ["S1"])
    assert data.splits["test"].tolist() == [0, 1, 2, 3, 4]
    assert data.splits["valid"].tolist() == [5, 6, 7, 8, 9]
    with pytest.raises(DataError, match="neither split nor train_mask"):
        load_series(write(tmp_path, train_mask=None), ["S1"])
    with pytest.raises(DataError, match="split says later"):
        load_series(write(tmp_path, split=np.array(["later"] * N)), ["S1"])


def test_targets_follow_their_rows(tmp_path: Path) -> None:
    data = load_series(write(tmp_path, target=np.arange(N) + 0.5), ["S1"])
    training = data.without_test().to(torch.device("cpu"))
    assert len(training.targets) == len(training.ids) == 30
    for i, name in enumerate(training.ids):
        assert training.targets[i, 0] == int(name.split()[1]) + 0.5
    changed = load_series(write(tmp_path, target=np.arange(N) + 1.5), ["S1"])
    assert changed.digest() != data.digest()


def test_refuses_infinite_values(tmp_path: Path) -> None:
    s1 = fields()["S1"]
    s1[7, 0, 0] = -np.inf  # the logarithm of no power
    with pytest.raises(DataError, match=r"series\.npz: S1: infinite values in 1 samples.*parcel 7"):
        load_series(write(tmp_path, S1=s1), ["S1"])
