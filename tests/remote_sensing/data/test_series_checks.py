from pathlib import Path

import numpy as np

from remote_sensing.data.series_checks import check_series
from tests.remote_sensing.data.test_series import N, fields, write


def test_says_what_is_there(tmp_path: Path) -> None:
    report = check_series(write(tmp_path, {"view_names": ["S1", "S2_S2VI"]}))
    assert report.problems == []
    assert report.warnings == []
    assert report.facts["train samples"] == 27
    assert report.facts["S1"] == "[2, 6], 0.0 % missing"
    share = np.isnan(fields()["S2"]).sum() / (N * 6 * 4)
    assert report.facts["S2_S2VI"] == f"[4, 6], {100 * share:.1f} % missing"
    assert report.facts["predicts"] == "3 classes"
    assert report.facts["statistics"] == "of the training rows"


def test_a_file_that_cannot_be_used_is_a_problem(tmp_path: Path) -> None:
    report = check_series(write(tmp_path, target=None))
    assert [str(problem).splitlines()[0] for problem in report.problems] == [
        f"{tmp_path / 'series.npz'}: no target"
    ]


def test_warns_of_what_is_unlikely_to_be_meant(tmp_path: Path) -> None:
    s2, target = fields()["S2"], np.where(np.arange(N) % 3 == 2, 1, np.arange(N) % 3)
    s2[:, :5, 2], s2[..., 1] = np.nan, 7
    target[35] = 4
    report = check_series(
        write(
            tmp_path,
            S1=10 ** (fields()["S1"] / 10),
            S2=s2,
            S2VI=1e4 * fields()["S2VI"],
            target=target,
        ),
        valid_share=0,
    )
    assert report.problems == []
    for words in (
        "S1: no value is negative; is it power where dB is meant?",
        "S2: 1 of 3 features are mostly missing",
        "S2: 1 of 3 features never change",
        "S2VI: values outside of -1 to 1",
        "no training sample of class 2, 3, 4",
        "the test rows validate",
    ):
        assert any(words in warning for warning in report.warnings), words
    assert len(report.warnings) == 6
