from pathlib import Path

import numpy as np
import pytest

from core.data.checks import DataError
from remote_sensing.data.crop_seasons import TYPES, write_crop_seasons
from remote_sensing.data.series import load_series
from remote_sensing.data.series_checks import check_series
from remote_sensing.data.series_files import SeriesFile, read_series


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> SeriesFile:
    folder = tmp_path_factory.mktemp("season") / "data"
    write_crop_seasons(folder, 600, types=True, unlabelled=0.0)
    return read_series(folder)


def test_has_the_fields_and_units_of_crop_harvest(season: SeriesFile) -> None:
    assert {name: of.shape[1:] for name, of in season.variables.items()} == {
        "S1": (12, 2),
        "S2": (12, 11),
        "S2VI": (12, 1),
        "weather": (12, 2),
        "DEM": (2,),
    }
    s1, s2 = season.variables["S1"], season.variables["S2"]
    assert -30 < s1.min() < s1.max() < 0
    assert (s1[..., 0] > s1[..., 1]).mean() > 0.95  # VV above VH
    assert 0 < np.nanmin(s2) < np.nanmax(s2) <= 1
    ndvi = (s2[..., 6] - s2[..., 2]) / (s2[..., 6] + s2[..., 2])
    np.testing.assert_allclose(season.variables["S2VI"][..., 0], ndvi, rtol=1e-3, atol=1e-4)
    clouded = np.isnan(s2).all(-1)
    np.testing.assert_array_equal(np.isnan(s2).any(-1), clouded)
    assert clouded.mean() == pytest.approx(0.2, abs=0.02)
    assert season.statistics.keys() == season.variables.keys()


def test_types_green_in_their_months(season: SeriesFile) -> None:
    ndvi = season.variables["S2VI"][..., 0]
    for number, of in enumerate(TYPES[:3]):
        year = np.nanmean(ndvi[season.target == number], 0)
        assert abs(year.argmax() + 0.5 - of.peak) <= 1, of.name
    levels = [np.nanmean(ndvi[season.target == number]) for number in range(len(TYPES))]
    assert np.argmax(levels) == 4  # forest
    assert np.argmin(levels) == 5  # built or bare
    # Leaves show in VH too, where clouds hide nothing.
    vh = season.variables["S1"][..., 1]
    seen = ~np.isnan(ndvi)
    assert np.corrcoef(vh[seen], ndvi[seen])[0, 1] > 0.5


@pytest.mark.parametrize("format", ["nc", "npz"])
def test_is_read_in_folds_without_what_has_no_target(format: str, tmp_path: Path) -> None:
    write_crop_seasons(tmp_path / "data", 200, format=format)
    data = load_series(tmp_path / "data", split="folds")
    assert data.shapes == {"S1": [2, 12], "S2_S2VI": [12, 12]}
    assert data.classes == {"label": ["no crop", "crop"]}
    assert (data.labels["label"] >= 0).all()
    assert len(data.ids) == int(read_series(tmp_path / "data").train_mask.sum()) < 200
    report = check_series(tmp_path / "data", split="folds")
    assert report.problems == report.warnings == []
    with pytest.raises(DataError, match=r"demo\.format=csv"):
        write_crop_seasons(tmp_path / "data", format="csv")
