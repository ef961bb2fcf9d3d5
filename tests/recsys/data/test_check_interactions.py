"""Broken input: each kind is refused by loading and listed by checking, in the same words."""

import gzip
import io

import numpy as np
import polars as pl
import pytest

from core.data.checks import DataError
from recsys.data.checks import check_interactions
from recsys.data.readers import load_interactions
from tests.recsys.data.sample_shop import HEADER, ROWS, TEST, TRAIN, VALID, inter_text


def with_row(place, row) -> str:
    """The sound interactions with the row on file line `place + 2` exchanged."""
    return inter_text([*ROWS[:place], row, *ROWS[place + 1 :]])


def saved(array, **kwargs) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **kwargs)
    return buffer.getvalue()


FEATURES = np.ones((5, 4), np.float32)
NAN = FEATURES.copy()
NAN[3, 1] = np.nan
INFINITE = FEATURES.astype(np.float64)
INFINITE[2:, 0] = 1e300

# name: (file, its new content, line or None, words of the message)
BROKEN = {
    "missing item column": ("shop.inter", "userID\tthing\n0\t0\n", 1, ["no item column", "thing"]),
    "missing columns": ("shop.inter", "a;b\n0;0\n", 1, ["no user column and no item column"]),
    "several user columns": (
        "shop.inter",
        "user\tuser_id\titem\n0\t0\t0\n",
        1,
        ["several columns", "user_column=NAME"],
    ),
    "no split column": ("shop.inter", "userID\titemID\n0\t0\n", 1, ["x_label", "split=ratio"]),
    "user id not an integer": (
        "shop.inter",
        with_row(4, ("x7", 1, 5.0, 1, 0)),
        6,
        ["user id 'x7' is not an integer"],
    ),
    "item id not an integer": (
        "shop.inter",
        with_row(12, (3, "2.5", 5.0, 1, 0)),
        14,
        ["item id '2.5' is not an integer"],
    ),
    "empty id": ("shop.inter", with_row(2, ("", 1, 5.0, 1, 0)), 4, ["no user id"]),
    "short line": ("shop.inter", with_row(2, (3,)), 4, ["no item id"]),
    "long line": ("shop.inter", with_row(2, (0, 1, 1, 1, 1, 1)), 4, ["6 fields", "5 fields"]),
    "negative id": ("shop.inter", with_row(0, (0, -1, 5.0, 1, 0)), 2, ["item id -1 is negative"]),
    "unknown label": (
        "shop.inter",
        with_row(5, (1, 2, 5.0, 1, 3)),
        7,
        ["split label '3'", "0 (train), 1 (validation) or 2 (test)"],
    ),
    "empty file": ("shop.inter", "", None, ["the file is empty"]),
    "header only": ("shop.inter", HEADER + "\n", 1, ["a header and no rows"]),
    "not UTF-8": (
        "shop.inter",
        inter_text().encode() + "Käse\t1\t1\t1\t0\n".encode("latin1"),
        15,
        ["not UTF-8"],
    ),
    "overlap": (
        "shop.inter",
        inter_text([*ROWS, (0, 1, 1.0, 1, 2)]),
        15,
        ["user 0, item 1 is in test and also in train", "shop.inter:3"],
    ),
    "user who took everything": (
        "shop.inter",
        inter_text([(0, 0, 1, 1, 0), (1, 0, 1, 1, 0), (1, 1, 1, 1, 0), (0, 1, 1, 1, 2)]),
        3,
        ["user 1 took all 2 items"],
    ),
    "no training rows": (
        "shop.inter",
        inter_text([(0, 0, 1, 1, 2), (1, 1, 1, 1, 2)]),
        None,
        ["no training interactions"],
    ),
    "rows of features": (
        "image_feat.npy",
        saved(FEATURES[:4]),
        None,
        ["4 rows of features for 5 items", "5 rows: row = item id"],
    ),
    "NaN": ("image_feat.npy", saved(NAN), None, ["row 3, column 1 is nan", "1 of 5 rows"]),
    "infinity in float32": (
        "text_feat.npy",
        saved(INFINITE),
        None,
        ["row 2, column 0 is inf in float32", "3 of 5 rows"],
    ),
    "objects": (
        "image_feat.npy",
        saved(np.array([["a"]], dtype=object), allow_pickle=True),
        None,
        ["holds objects"],
    ),
    "text": ("image_feat.npy", saved(np.array([["a"] * 2] * 5)), None, ["holds text"]),
    "complex": ("image_feat.npy", saved(FEATURES + 1j), None, ["holds complex numbers"]),
    "one dimension": ("image_feat.npy", saved(FEATURES[:, 0]), None, ["shape (5,)"]),
    "truncated npy": (
        "image_feat.npy",
        saved(FEATURES)[:-10],
        None,
        ["truncated: 70 bytes of data for shape (5, 4)", "80 bytes"],
    ),
    "truncated npy header": ("text_feat.npy", saved(FEATURES)[:20], None, ["cut off"]),
    "damaged npy header": (
        "image_feat.npy",
        saved(FEATURES).replace(b"}", b"("),
        None,
        ["damaged or cut off"],
    ),
    "negative npy shape": (
        "image_feat.npy",
        saved(FEATURES).replace(b"(5, 4)", b"(-5,4)"),
        None,
        ["damaged or cut off"],
    ),
    "empty npy": ("text_feat.npy", b"", None, ["not a NumPy file"]),
    "pickle": ("text_feat.npy", b"\x80\x04K\x01.", None, ["not a NumPy file"]),
    "mapping with a gap": ("i_id_mapping.csv", "a\t0\nb\t2\n", None, ["does not number the 2 ids"]),
    "titles without ids": ("items.csv", "name\nCup\n", 1, ["no item column", "name"]),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files(folder, kind):
    name, content, line, words = BROKEN[kind]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if name.endswith(".inter"):
        for file in (*folder.glob("*_feat.npy"), folder / "items.csv"):
            file.unlink()

    with pytest.raises(DataError) as error:
        load_interactions(folder)
    message = str(error.value)
    assert message.startswith(f"{folder / name}:{line}: " if line else f"{folder / name}: ")
    for word in words:
        assert word in message
    assert "\n" in message, "says neither what was expected nor what to do"

    assert message in [str(problem) for problem in check_interactions(folder).problems]


def test_truncated_gzip(folder):
    (folder / "shop.inter").unlink()
    (folder / "shop.inter.gz").write_bytes(gzip.compress(inter_text().encode())[:-12])
    with pytest.raises(DataError, match=r"shop\.inter\.gz: the gzip file is truncated"):
        load_interactions(folder)
    (folder / "shop.inter.gz").write_bytes(b"userID\titemID\n")
    with pytest.raises(DataError, match=r"shop\.inter\.gz: the gzip file is truncated or damaged"):
        load_interactions(folder)


@pytest.mark.parametrize(
    ("file", "pairs", "reason"),
    [
        ("valid.npy", np.array(VALID).T[:1], r"shape \(1, 2\)"),
        ("test.npy", np.zeros((4, 2), int), r"shape \(4, 2\)(.|\n)*save it transposed"),
        ("train.npy", np.array(TRAIN, float), "dtype float64"),
        ("valid.npy", np.array([[0, -2], [2, 1]]), "column 1: user id -2 is negative"),
        ("test.npy", np.array([[0, 0], [3, 0]]), "column 1: user 0, item 0 is in test and also in"),
    ],
)
def test_broken_rearm_arrays(folder, file, pairs, reason):
    (folder / "shop.inter").unlink()
    for name, sound in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        np.save(folder / f"{name}.npy", np.array(sound))
    np.save(folder / file, pairs)
    with pytest.raises(DataError, match=reason) as error:
        load_interactions(folder)
    assert str(error.value).startswith(str(folder / file))


def test_a_missing_rearm_array(folder):
    (folder / "shop.inter").unlink()
    np.save(folder / "train.npy", np.array(TRAIN))
    report = check_interactions(folder)
    assert [problem.path.name for problem in report.problems] == ["valid.npy", "test.npy"]
    assert "No such file" in str(report.problems[0])


def test_text_ids_need_a_mapping_for_features(folder):
    rows = [(user, f"B{item}", *rest) for user, item, *rest in ROWS]
    (folder / "shop.inter").write_text(inter_text(rows))
    with pytest.raises(DataError, match=r"i_id_mapping\.csv: item ids are text \(e\.g\. 'B0'\)"):
        load_interactions(folder)
    (folder / "i_id_mapping.csv").write_text("B0\t0\nB1\t1\nB2\t2\nB3\t3\nB5\t4\n")
    with pytest.raises(DataError, match=r"i_id_mapping\.csv: item 'B4' is not in the file"):
        load_interactions(folder)
    (folder / "i_id_mapping.csv").write_text("B0\t0\nB1\t1\nB2\t2\nB3\t3\n")
    with pytest.raises(DataError, match="5 rows of features for 4 items in i_id_mapping"):
        load_interactions(folder)


def test_places_without_one_interaction_file(tmp_path, folder):
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        load_interactions(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="bare: no interaction file"):
        load_interactions(tmp_path / "bare")
    (folder / "shop2.inter").write_text(inter_text())
    with pytest.raises(DataError, match=r"several interaction files: shop\.inter, shop2\.inter"):
        load_interactions(folder)
    assert load_interactions(folder / "shop2.inter").n_users == 4


def test_damaged_parquet_and_columns_of_lists(folder):
    (folder / "shop.inter").unlink()
    (folder / "shop.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"shop\.parquet: not a readable parquet file"):
        load_interactions(folder)
    pl.DataFrame({"user": [[0]], "item": [0], "x_label": [0]}).write_parquet(
        folder / "shop.parquet"
    )
    with pytest.raises(DataError, match=r"shop\.parquet: column 'user' of type List"):
        load_interactions(folder)
    frame = pl.DataFrame({"user": [0.0, 1.5, 1.0], "item": [0, 1, 2], "x_label": [0, 0, 0]})
    frame.write_parquet(folder / "shop.parquet")
    with pytest.raises(DataError, match=r"shop\.parquet: row 1: user id 1\.5 is not an integer"):
        load_interactions(folder)


def test_a_time_that_is_no_number_matters_only_when_times_are_used(folder):
    (folder / "shop.inter").write_text(with_row(3, (0, 3, 3.0, "noon", 2)))
    assert load_interactions(folder).n_users == 4
    with pytest.raises(DataError, match=r"shop\.inter:5: timestamp 'noon' is not a number"):
        load_interactions(folder, split="leave_one_out")


def test_the_check_tells_facts_and_writes_nothing(folder):
    before = sorted(folder.iterdir())
    report = check_interactions(folder)
    assert report.problems == []
    assert report.warnings == []
    assert report.facts == {
        "users": 4,
        "items": 5,
        "interactions": 13,
        "train": 7,
        "valid": 3,
        "test": 3,
        "density": 13 / 20,
        "train degree of users (min / median / max)": "1 / 2 / 2",
        "train degree of items (min / median / max)": "1 / 1 / 2",
        "image features": "5 x 4",
        "text features": "5 x 3",
        "titles": 5,
    }
    assert check_interactions(folder, split="ratio").facts["interactions"] == 13
    assert sorted(folder.iterdir()) == before


def test_the_check_goes_on_past_every_problem(folder):
    rows = [*ROWS, (1, 1, 1.0, 1, 2), ("x", 1, 1.0, 1, 0), (2, 2, 1.0, 1, 9), (7, 6, 1.0, 1, 2)]
    (folder / "shop.inter").write_text(inter_text(rows))
    np.save(folder / "image_feat.npy", NAN)
    (folder / "text_feat.npy").write_bytes(b"")
    report = check_interactions(folder)
    places = [(problem.path.name, problem.line) for problem in report.problems]
    assert places == [
        ("shop.inter", 17),
        ("shop.inter", 16),
        ("shop.inter", 15),
        ("image_feat.npy", None),
        ("text_feat.npy", None),
    ]
    assert report.facts["train"] == 7
    assert any(":18: user 7 has no training interaction" in text for text in report.warnings)
    assert "1 of 6 items have no training interaction" in report.warnings


def test_the_check_sees_the_features_when_interactions_are_unusable(folder):
    (folder / "shop.inter").write_text("")
    np.save(folder / "image_feat.npy", NAN)
    report = check_interactions(folder)
    assert [problem.path.name for problem in report.problems] == ["shop.inter", "image_feat.npy"]
    assert report.facts == {}
    assert check_interactions(folder / "lost").facts == {}
