import hashlib

import numpy as np
import polars as pl
import pytest

from core.data.checks import DataError
from recsys.data.checks import check_interactions
from recsys.data.demo import generate_grs, write_demo
from recsys.data.readers import load_interactions


def test_the_race_set_is_the_published_one():
    data = generate_grs(
        seed=2026,
        n_users=20_000,
        n_items=7_000,
        n_topics=40,
        d_lat=24,
        beta=2.0,
        d_img=4096,
        d_txt=384,
        img_noise=1.0,
        txt_noise=0.5,
    )
    stacked = np.stack([data.users, data.items, data.label]).astype("<i8")
    assert hashlib.sha256(stacked.tobytes()).hexdigest()[:16] == "6b87a05a6d00852b"
    assert np.bincount(data.label).tolist() == [119_075, 20_299, 21_231]
    degree = np.bincount(data.items)
    assert (degree.min(), np.median(degree), degree.max()) == (1, 14, 1389)
    assert data.image.mean(dtype=np.float64) == pytest.approx(0.565533, abs=5e-7)
    assert data.text[0, :3] == pytest.approx([0.0348661, -0.0282972, 0.0390157], abs=5e-8)


def test_a_set_with_fewer_items_than_a_user_may_take():
    data = generate_grs(seed=0, n_users=60, n_items=40, mean_extra=60.0)
    pairs = data.users * 40 + data.items
    assert len(np.unique(pairs)) == len(pairs)
    assert np.bincount(data.users).max() == 40


def test_the_demo_is_sound_and_holds_the_generated_data(tmp_path):
    write_demo(tmp_path / "toys", seed=3, n_users=300, n_items=120)
    names = {file.name for file in (tmp_path / "toys").iterdir()}
    assert names == {"toys.inter", "image_feat.npy", "text_feat.npy", "items.csv", "demo.json"}
    assert [file.name for file in tmp_path.iterdir()] == ["toys"]

    report = check_interactions(tmp_path / "toys")
    assert report.problems == []
    drawn = generate_grs(seed=3, n_users=300, n_items=120)
    data = load_interactions(tmp_path / "toys")
    for label, split in enumerate(("train", "valid", "test")):
        chosen = drawn.label == label
        expected = np.stack([drawn.users[chosen], drawn.items[chosen]])
        assert np.array_equal(data.positives(split).numpy(), expected)
    assert np.array_equal(data.features["image"].numpy(), drawn.image)
    assert np.array_equal(data.features["text"].numpy(), drawn.text)


def test_titles_tell_the_topic_and_times_the_order_of_splits(tmp_path):
    write_demo(tmp_path / "demo", n_users=300, n_items=400, n_topics=25)
    items = pl.read_csv(tmp_path / "demo" / "items.csv")
    topic = generate_grs(seed=0, n_users=300, n_items=400, n_topics=25).topic
    nouns = items["title"].str.replace(r"^\S+ ", "").str.replace(r" \d+$", "")
    table = pl.DataFrame(
        {"noun": nouns, "shelf": topic % 20, "topic": topic, "name": items["topic"]}
    )
    assert table.group_by("noun").agg(pl.col("shelf").n_unique())["shelf"].to_list() == [1] * 60
    assert table["name"].n_unique() == 25
    assert len(table.unique(["name", "topic"])) == 25
    assert items["title"].is_unique().all()

    raw = pl.read_csv(tmp_path / "demo" / "demo.inter", separator="\t")
    assert raw.columns == ["userID", "itemID", "rating", "timestamp", "x_label"]
    later = raw.with_columns(pl.col("timestamp", "x_label").diff().over("userID").name.suffix("_d"))
    assert (later["timestamp_d"].drop_nulls() >= 0).all()
    assert (later["x_label_d"].drop_nulls() >= 0).all()


def test_a_demo_is_replaced_and_other_folders_are_not(tmp_path):
    demo = tmp_path / "demo"
    demo.mkdir()
    write_demo(demo, n_users=60, n_items=110)
    load_interactions(demo, split="ratio")
    write_demo(demo, seed=1, n_users=70, n_items=110)
    assert load_interactions(demo).n_users == 70
    assert not list(demo.glob("*.split-*"))
    assert [file.name for file in tmp_path.iterdir()] == ["demo"]

    (demo / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"demo: already exists and holds other files \(thesis.tex"):
        write_demo(demo, n_users=60, n_items=110)
    (demo / "thesis.tex").unlink()
    (demo / "demo.json").unlink()
    with pytest.raises(DataError, match="already exists"):
        write_demo(demo, n_users=60, n_items=110)
    assert load_interactions(demo).n_users == 70


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(DataError, match="No space left on device"):
        write_demo(tmp_path / "demo", n_users=60, n_items=110)
    assert list(tmp_path.iterdir()) == []
