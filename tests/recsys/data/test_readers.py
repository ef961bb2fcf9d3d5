import gzip
import os

import numpy as np
import polars as pl
import pytest
import torch

from core.data.checks import DataError
from recsys.data.ids import save_id_mapping
from recsys.data.readers import load_interactions
from tests.recsys.data.sample_shop import HEADER, ROWS, TEST, TRAIN, VALID, inter_text


def assert_is_the_shop(data) -> None:
    assert (data.n_users, data.n_items) == (4, 5)
    assert data.train.tolist() == TRAIN
    assert data.valid.tolist() == VALID
    assert data.test.tolist() == TEST
    assert data.train.dtype == data.valid.dtype == data.test.dtype == torch.int64


def test_reads_mmrec_files_with_features_and_titles(folder):
    data = load_interactions(folder)
    assert_is_the_shop(data)
    assert data.feature_dims == {"image": 4, "text": 3}
    for name in ("image", "text"):
        stored = np.load(folder / f"{name}_feat.npy")
        assert data.features[name].dtype == torch.float32
        assert np.array_equal(data.features[name].numpy(), stored.astype(np.float32))
    assert data.user_ids == ["0", "1", "2", "3"]
    assert data.titles == ["Cup, red", "Pot", "Pan", "3", "Mug"]


def test_reads_the_file_itself_with_what_lies_beside_it(folder):
    data = load_interactions(str(folder / "shop.inter"))
    assert_is_the_shop(data)
    assert set(data.features) == {"image", "text"}
    assert load_interactions(folder).digest() == data.digest()


def test_reads_gzip(folder):
    text = (folder / "shop.inter").read_bytes()
    (folder / "shop.inter").unlink()
    (folder / "shop.inter.gz").write_bytes(gzip.compress(text))
    assert_is_the_shop(load_interactions(folder))


@pytest.mark.parametrize("separator", ["\t", ","])
def test_reads_recbole_headers(folder, separator):
    header = "user_id:token item_id:token rating:float timestamp:float x_label:float"
    text = inter_text(header=header.replace(" ", separator), separator=separator)
    (folder / "shop.inter").write_text(text)
    assert_is_the_shop(load_interactions(folder))


def test_reads_windows_line_ends_byte_order_mark_and_blank_lines(folder):
    text = "\ufeff" + inter_text().replace("\n", "\r\n") + "\r\n\r\n"
    (folder / "shop.inter").write_bytes(text.encode())
    assert_is_the_shop(load_interactions(folder))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_reads_csv_and_parquet_with_named_columns(folder, suffix):
    (folder / "shop.inter").unlink()
    frame = pl.DataFrame(ROWS, schema=["who", "what", "row", "when", "part"], orient="row")
    if suffix == "csv":
        frame.write_csv(folder / "shop.csv")
    else:
        frame.write_parquet(folder / "shop.parquet")
    names = {"user_column": "who", "item_column": "what", "label_column": "part"}
    assert_is_the_shop(load_interactions(folder, **names))


def test_reads_rearm_arrays(folder):
    (folder / "shop.inter").unlink()
    for name, pairs in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        np.save(folder / f"{name}.npy", np.array(pairs))
    data = load_interactions(folder)
    assert_is_the_shop(data)
    assert load_interactions(folder / "train.npy").digest() == data.digest()


def test_a_split_without_rows_has_no_columns(folder):
    (folder / "shop.inter").write_text(inter_text([row for row in ROWS if row[4] != 1]))
    data = load_interactions(folder)
    assert data.valid.shape == (2, 0)
    assert data.test.tolist() == TEST


def test_integer_ids_with_gaps_are_numbered_by_size_and_take_their_feature_rows(folder):
    items = {0: 2, 1: 10, 2: 9, 3: 30, 4: 3}
    rows = [(user * 7 + 1, items[item], *rest) for user, item, *rest in ROWS]
    (folder / "shop.inter").write_text(inter_text(rows))
    (folder / "items.csv").unlink()
    table = np.arange(31 * 2, dtype=np.float32).reshape(31, 2)
    for name in ("image", "text"):
        np.save(folder / f"{name}_feat.npy", table)
    data = load_interactions(folder)
    assert data.item_ids == ["2", "3", "9", "10", "30"]
    assert data.user_ids == ["1", "8", "15", "22"]
    assert data.features["image"].tolist() == table[[2, 3, 9, 10, 30]].tolist()
    again = [(int(data.user_ids[u]), int(data.item_ids[i])) for u, i in data.train.T.tolist()]
    assert again == [row[:2] for row in rows if row[4] == 0]


def test_text_ids_are_sorted_and_find_their_features_by_the_mapping(folder):
    asins = ["B9", "B1", "0345", "A", "C"]
    rows = [(f"u{user}", asins[item], *rest) for user, item, *rest in ROWS]
    (folder / "shop.inter").write_text(inter_text(rows))
    (folder / "i_id_mapping.csv").write_text(
        "asin\titemID\nA\t4\nB9\t0\nnever bought\t5\nB1\t1\n0345\t2\nC\t3\n"
    )
    (folder / "items.csv").write_text("item,title\nB1,Pot\n")
    table = np.arange(12, dtype=np.float32).reshape(6, 2)
    for name in ("image", "text"):
        np.save(folder / f"{name}_feat.npy", table)
    data = load_interactions(folder)
    assert data.item_ids == ["0345", "A", "B1", "B9", "C"]
    assert data.features["text"].tolist() == table[[2, 4, 1, 0, 3]].tolist()
    assert data.titles == ["0345", "A", "Pot", "B9", "C"]
    again = [(data.user_ids[u], data.item_ids[i]) for u, i in data.test.T.tolist()]
    assert again == [row[:2] for row in rows if row[4] == 2]


def test_zero_padded_ids_stay_apart_as_text(folder):
    rows = [(user, ["1", "01", "2", "02", "3"][item], *rest) for user, item, *rest in ROWS]
    (folder / "shop.inter").write_text(inter_text(rows))
    assert load_interactions(folder, features=[]).item_ids == ["01", "02", "1", "2", "3"]


def test_a_token_header_allows_digits_among_text(folder):
    rows = [(user, "x" if item == 4 else item, *rest) for user, item, *rest in ROWS]
    header = HEADER.replace("itemID", "item_id:token")
    (folder / "shop.inter").write_text(inter_text(rows, header=header))
    assert load_interactions(folder, features=[]).item_ids == ["0", "1", "2", "3", "x"]


def test_a_saved_mapping_gives_new_files_the_same_ids(folder, tmp_path):
    asins = ["B9", "B1", "0345", "A", "C"]
    rows = [(f"u{user}", asins[item], *rest) for user, item, *rest in ROWS]
    (folder / "shop.inter").write_text(inter_text(rows))
    (folder / "items.csv").unlink()
    old = load_interactions(folder, features=[])
    save_id_mapping(old, tmp_path / "ids.json")
    (folder / "shop.inter").write_text(inter_text(rows[7:]))
    new = load_interactions(folder, features=[], id_mapping=tmp_path / "ids.json")
    assert new.item_ids == old.item_ids
    assert new.n_users == 4
    expected = [old.item_ids.index(row[1]) for row in rows[7:] if row[4] == 0]
    assert new.train[1].tolist() == expected


def test_an_id_that_the_saved_mapping_lacks_is_named_with_its_line(folder, tmp_path):
    save_id_mapping(load_interactions(folder), tmp_path / "ids.json")
    (folder / "shop.inter").write_text(inter_text([*ROWS, (3, 5, 1.0, 99, 0)]))
    with pytest.raises(DataError, match=r"shop\.inter:15: item '5' is not in the saved ids"):
        load_interactions(folder, features=[], id_mapping=tmp_path / "ids.json")
    (tmp_path / "ids.json").write_text("{}")
    with pytest.raises(DataError, match=r"ids\.json: not an id mapping"):
        load_interactions(folder, id_mapping=tmp_path / "ids.json")


def test_only_the_named_features_are_read(folder):
    np.save(folder / "audio_feat.npy", np.ones((5, 2)))
    assert load_interactions(folder).feature_dims == {"audio": 2, "image": 4, "text": 3}
    assert load_interactions(folder, features=["audio"]).feature_dims == {"audio": 2}
    (folder / "text_feat.npy").write_bytes(b"broken, but not asked for")
    assert load_interactions(folder, features=[]).feature_dims == {}
    with pytest.raises(DataError, match=r"no features 'sound'; there are: audio, image, text"):
        load_interactions(folder, features=["sound"])


@pytest.mark.parametrize("name", ["item", "user", "items", "keys", "dots.in"])
def test_a_modality_needs_a_name_of_its_own(folder, name):
    np.save(folder / f"{name}_feat.npy", np.ones((5, 2)))
    with pytest.raises(DataError, match="cannot be named") as error:
        load_interactions(folder)
    assert f"{name}_feat.npy" in str(error.value)


def test_repeated_pairs_of_a_split_are_dropped_with_a_warning(folder):
    (folder / "shop.inter").write_text(inter_text([*ROWS, ROWS[0], ROWS[1]]))
    with pytest.warns(UserWarning, match=r"shop\.inter:15: 2 repeated interactions"):
        data = load_interactions(folder)
    assert_is_the_shop(data)


def test_users_without_training_rows_are_dropped_or_kept(folder):
    (folder / "shop.inter").write_text(inter_text([*ROWS, (4, 0, 1.0, 50, 1), (4, 1, 1.0, 51, 2)]))
    message = r"shop\.inter:15: user 4 has no training interaction; 1 such users \(2 rows\) are "
    with pytest.warns(UserWarning, match=message + "left out"):
        data = load_interactions(folder)
    assert data.n_users == 5
    assert data.valid.tolist() == VALID
    assert data.test.tolist() == TEST
    with pytest.warns(UserWarning, match=message + "kept"):
        kept = load_interactions(folder, drop_cold_users=False)
    assert kept.test.tolist() == [[*TEST[0], 4], [*TEST[1], 1]]


def test_metadata_and_split_files_are_not_taken_for_interactions(folder):
    (folder / "shop.inter").rename(folder / "clicks.csv")
    (folder / "i_id_mapping.csv").write_text("asin\titemID\n")
    (folder / "u_id_mapping.csv").write_text("user\tuserID\n")
    load_interactions(folder, features=[], split="ratio")
    assert [file.name for file in folder.glob("*.split-*")]
    assert_is_the_shop(load_interactions(folder, features=[]))


def test_moves_hides_the_test_split_and_digests(folder):
    data = load_interactions(folder)
    assert data.n_interactions == 7
    assert data.positives("test").tolist() == TEST
    assert data.without_test().test.shape == (2, 0)
    assert data.without_test().train.tolist() == TRAIN
    on_meta = data.to("meta")
    assert {on_meta.train.device.type, on_meta.features["image"].device.type} == {"meta"}
    digests = {data.digest(), data.without_test().digest()}
    data.features["text"][4, 2] += 1
    assert len(digests | {data.digest()}) == 3
    with pytest.raises(KeyError):
        data.positives("all")


@pytest.mark.real
def test_reads_gowalla(real_data):
    data = load_interactions(real_data / "gowalla")
    assert (data.n_users, data.n_items) == (29_858, 40_981)
    assert data.train.shape == (2, 810_128)
    assert data.valid.shape == (2, 0)
    assert data.test.shape == (2, 217_242)


@pytest.mark.real
def test_reads_amazon_baby(real_data):
    data = load_interactions(real_data / "amazon" / "baby")
    assert (data.n_users, data.n_items) == (19_445, 7_050)
    sizes = [data.positives(split).shape[1] for split in ("train", "valid", "test")]
    assert sizes == [118_551, 20_559, 21_682]
    stored = np.load(real_data / "amazon" / "baby" / "test.npy")
    assert np.array_equal(data.test.numpy(), stored)


def test_never_unpickles(folder):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(folder / "exploded"),)

    np.save(folder / "image_feat.npy", np.array([Bomb()] * 5, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="objects"):
        load_interactions(folder)
    assert not (folder / "exploded").exists()
