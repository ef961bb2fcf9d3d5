from collections import OrderedDict
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from core.build import build, build_part
from core.data.checks import DataError
from core.encoders.mlp import MLP
from core.systems.simclr import SimCLR


def test_the_target_gets_plain_values() -> None:
    node = OmegaConf.create({"_target_": "builtins.dict", "a": [1, 2], "b": {"c": 3}, "d": "${a}"})
    built = build(node)
    assert built == {"a": [1, 2], "b": {"c": 3}, "d": [1, 2]}
    assert {type(built[key]) for key in "abd"} == {list, dict}


def test_further_arguments_go_before_those_of_the_node() -> None:
    node = OmegaConf.create({"_target_": "datetime.timedelta", "hours": 1, "minutes": 2})
    assert build(node, hours=5) == timedelta(hours=5, minutes=2)
    node = OmegaConf.create({"_target_": "builtins.dict"})
    assert build(node, sizes={"image": 3}) == {"sizes": {"image": 3}}
    assert type(build(node, sizes={"image": 3})["sizes"]) is dict


def test_a_partial_target_waits_for_the_rest() -> None:
    node = OmegaConf.create({"_target_": "collections.OrderedDict", "_partial_": True, "b": 2})
    built = build(node)
    assert isinstance(built, partial)
    assert built(a=1) == OrderedDict(b=2, a=1)


def test_what_the_target_says_is_not_lost() -> None:
    node = OmegaConf.create({"_target_": "builtins.int", "x": 3})
    with pytest.raises(InstantiationException) as caught:
        build(node)
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_part_is_a_class_of_the_project() -> None:
    mlp = build_part({"_target_": "core.encoders.mlp.MLP", "dim": 4}, shape=[3])
    assert isinstance(mlp, MLP) and mlp.dim == 4


@pytest.mark.parametrize(
    "target",
    [
        "subprocess.check_output",
        "core.encoders.mlp.pairwise",  # imported there, not defined
        "core.encoders.mlp.nn.Linear",
        "core.encoders.build.build_encoder",  # not a class
        "core.trainers.log.LogCSV",  # of another room
        "core.encoders.mlp.Missing",
        "core",
    ],
)
def test_a_part_is_nothing_else(target: str) -> None:
    with pytest.raises(DataError, match=f"would be made by {target}"):
        build_part({"_target_": target})
    with pytest.raises(DataError, match=f"would be made by {target}"):
        build_part({"_target_": "core.encoders.mlp.MLP", "shape": [{"_target_": target}]})


def test_a_package_that_the_user_trusts_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIENCE_TRUSTED", "mylab,collections")
    assert build_part({"_target_": "collections.OrderedDict", "a": 1}) == OrderedDict(a=1)


def test_exported_weights_cannot_name_what_is_called(tmp_path: Path) -> None:
    SimCLR({"x": [3]}).save_pretrained(tmp_path)
    sprung = tmp_path / "sprung"
    config = tmp_path / "config.json"
    trap = f'{{"_target_": "subprocess.check_output", "args": ["touch", "{sprung}"]}}'
    config.write_text(config.read_text().replace('"encoder": null', f'"encoder": {trap}'))
    assert "subprocess" in config.read_text()
    with pytest.raises(DataError, match=r"would be made by subprocess.check_output"):
        SimCLR.from_pretrained(tmp_path)
    assert not sprung.exists()
