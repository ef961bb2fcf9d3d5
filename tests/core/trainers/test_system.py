from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.data.checks import DataError
from core.trainers import System
from tests.core.trainers.tiny import Tiny, tiny_data


class Zoo(System):
    """One of every kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.convolution = nn.Conv2d(2, 4, 3)
        self.table = nn.Embedding(5, 4)
        self.bag = nn.EmbeddingBag(5, 4)
        self.layer_norm = nn.LayerNorm((2, 4))
        self.group_norm = nn.GroupNorm(2, 4)
        self.rms_norm = nn.RMSNorm((2, 4))
        self.batch_norm = nn.BatchNorm1d(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.temperature = nn.Parameter(torch.zeros(()))
        self.projection = nn.Parameter(torch.zeros(4, 4))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.tied = nn.Linear(4, 5, bias=False)
        self.tied.weight = self.table.weight


def _names(system: System, group: dict[str, Any]) -> set[str]:
    by_parameter = {parameter: name for name, parameter in system.named_parameters()}
    names = [by_parameter[parameter] for parameter in group["params"]]
    assert len(set(names)) == len(names)
    return set(names)


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    system = Zoo()
    decaying, others = system.parameter_groups()
    assert _names(system, decaying) == {
        "linear.weight",
        "convolution.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "projection",
    }
    assert "weight_decay" not in decaying
    assert others["weight_decay"] == 0
    trained = {name for name, p in system.named_parameters() if p.requires_grad}
    assert _names(system, others) == trained - _names(system, decaying)
    optimizer = torch.optim.AdamW(system.parameter_groups(), lr=1e-3, weight_decay=0.5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]


def test_only_what_decays_shrinks() -> None:
    system = Zoo()
    optimizer = torch.optim.AdamW(system.parameter_groups(), lr=0.1, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in system.named_parameters()}
    for parameter in system.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decayed = _names(system, system.parameter_groups()[0])
    for name, parameter in system.named_parameters():
        factor = 0.95 if name in decayed else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def test_a_group_without_parameters_is_left_out() -> None:
    class Bias(System):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

    assert [len(group["params"]) for group in Bias().parameter_groups()] == [1]
    assert System().parameter_groups() == []
    assert System().configure_optimizers() is None


def test_what_a_method_leaves_out_is_named() -> None:
    with pytest.raises(NotImplementedError, match="Zoo does not define its objective"):
        Zoo().objective({})
    with pytest.raises(NotImplementedError, match="Zoo does not define its embeddings"):
        Zoo().embed({})


def _trained(noise: float = 0.2) -> tuple[Tiny, dict[str, Tensor]]:
    torch.manual_seed(1)
    data = tiny_data(width=4)
    system = Tiny(4, noise=noise)
    system.prepare(data)
    return system.eval(), {"x": data.x}


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    system, batch = _trained()
    system.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}
    torch.manual_seed(2)
    again = Tiny.from_pretrained(tmp_path)
    assert (again.p, again.noise) == (0.5, 0.2)
    assert not again.training
    assert again.mean.abs().sum() > 0
    found, expected = again.state_dict(), system.state_dict()
    assert found.keys() == expected.keys() == load_file(tmp_path / "model.safetensors").keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(again.embed(batch)["series"], system.embed(batch)["series"])


def test_weights_that_lack_something_are_not_filled_up_by_chance(tmp_path: Path) -> None:
    system, _ = _trained()
    system.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["hidden.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"model\.safetensors: .*weights of Tiny.*hidden\.weight"):
        Tiny.from_pretrained(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 200])
def test_a_truncated_file_of_weights_is_named(tmp_path: Path, keep: int) -> None:
    _trained()[0].save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"model\.safetensors: cannot be read as weights of Tiny"):
        Tiny.from_pretrained(tmp_path)


def test_a_system_takes_of_the_sizes_what_it_names() -> None:
    system = Tiny.of({"width": 5, "n_train": 100}, p=0.25)
    assert (system.hidden.in_features, system.p) == (5, 0.25)

    class Named(Tiny):
        def __init__(self, name: str, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.name = name

    assert Named.of({"width": 5, "n_train": 100}, name="own").hidden.in_features == 5
    with pytest.raises(TypeError, match="nothing"):
        Tiny.of({"width": 5}, nothing=1)
