from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.augment.draws import Draws
from core.checkpoints import read_checkpoint
from core.data.checks import DataError
from core.data.samples import Samples
from core.data.table import load_table
from core.data.xor import write_xor
from core.losses import info_nce, symile
from core.systems.clip import CLIP
from core.systems.symile import Symile
from core.systems.towers import Towers
from core.tasks.retrieval import Retrieval
from core.trainers import fit
from tests.core.gloo import run_gloo
from tests.core.systems.shared_steps import gradients

SHAPES = {"a": [3], "b": [1, 2, 2], "c": [5]}
SMALL = {"dim": 6, "encoder": {"_target_": "core.systems.towers.Flat"}}
XOR = SMALL | {"dim": 16, "layer_norm": False, "normalize": True, "logit_scale": 0.74}


def built(method: type[Towers] = Symile, **arguments) -> Towers:
    torch.manual_seed(0)
    return method(SHAPES, **SMALL | arguments)


def rows(n: int = 7) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    return {name: torch.randn(n, *shape, generator=g) for name, shape in SHAPES.items()}


def samples(n: int = 22) -> Samples:
    parts = torch.arange(n).tensor_split([n - 8, n - 4])
    splits = dict(zip(("train", "valid", "test"), parts, strict=True))
    return Samples(rows(n), {}, splits, [str(i) for i in range(n)])


def draws(n: int, own: slice = slice(None)) -> Draws:
    return Draws(5, n, own, torch.device("cpu"))


def test_every_anchor_shuffles_every_other_modality_on_its_own() -> None:
    order = built().draw(rows(50), draws(50))["permutations"]
    assert order.shape == (3, 2, 50)
    assert torch.equal(order.sort(2).values, torch.arange(50).expand(3, 2, 50))
    for first, second in combinations(order.flatten(0, 1), 2):
        assert (first == second).sum() < 10
    parts = [
        rows(n) | built().draw(rows(n), draws(50, own))
        for n, own in ((20, slice(20)), (30, slice(20, 50)))
    ]
    for part in parts:
        assert torch.equal(part["permutations"], order)


def test_the_objective_is_the_loss_of_the_drawn_shuffles() -> None:
    system = built()
    batch = rows() | system.draw(rows(), draws(7))
    terms = system.objective(batch)
    vectors = list(system.embed(batch).values())
    expected = symile(vectors, 14.29, permutations=batch["permutations"])
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["total_correlation"], torch.tensor(7.0).log() - expected)
    other = rows() | system.draw(rows(), Draws(6, 7, slice(None), torch.device("cpu")))
    assert system.objective(other)["loss"] != terms["loss"]


def test_all_combinations_need_no_shuffles() -> None:
    system = built(negatives="all")
    terms = system.objective(rows())
    expected = symile(list(system.embed(rows()).values()), 14.29, negatives="all")
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["total_correlation"], 2 * torch.tensor(7.0).log() - expected)


def test_pairs_are_summed() -> None:
    system = built(CLIP, logit_scale=5.0)
    terms = system.objective(rows())
    vectors = system.embed(rows())
    pairs = {
        f"{one}_{two}": info_nce(vectors[one], vectors[two], 0.2)
        for one, two in combinations("abc", 2)
    }
    for name, expected in pairs.items():
        torch.testing.assert_close(terms[name], expected)
    torch.testing.assert_close(terms["loss"], sum(pairs.values()))


def test_embeddings_end_in_a_layer_norm_or_at_unit_length() -> None:
    batch = rows()
    before = {name: x.clone() for name, x in batch.items()}
    for x in built().embed(batch).values():
        torch.testing.assert_close(x.mean(1), torch.zeros(7), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.square().mean(1), torch.ones(7), atol=1e-3, rtol=0)
    for x in built(layer_norm=False, normalize=True).embed(batch).values():
        torch.testing.assert_close(x.norm(dim=1), torch.ones(7))
    for name, x in batch.items():
        assert torch.equal(x, before[name])


def test_scores_are_of_all_modalities_or_of_the_pairs() -> None:
    vectors = list(built().embed(rows()).values())
    candidates, queries = vectors[0], vectors[1:]
    before = [x.clone() for x in vectors]
    found = built().score(candidates, queries)
    expected = 14.29 * torch.einsum("kd,nd,nd->nk", candidates, *queries)
    torch.testing.assert_close(found, expected)
    found = built(CLIP).score(candidates, queries)
    pairs = [torch.einsum("kd,nd->nk", candidates, q) for q in queries]
    between = torch.einsum("nd,nd->n", *queries)[:, None]
    torch.testing.assert_close(found, 14.29 * (sum(pairs) + between))
    for x, y in zip(vectors, before, strict=True):
        assert torch.equal(x, y)


def test_the_scale_of_symile_is_free_and_that_of_clip_is_not() -> None:
    assert built(logit_scale=1000.0).scale().item() == pytest.approx(1000)
    assert built(CLIP, logit_scale=1000.0).scale().item() == pytest.approx(100)


def test_encoders_are_one_for_all_or_one_for_each() -> None:
    mlp = {"_target_": "core.encoders.mlp.MLP", "hidden": [4], "dim": 3}
    system = built(encoder={"a": mlp, "b": None, "c": SMALL["encoder"]})
    assert [tower[0].dim for tower in system.towers.values()] == [3, 128, 5]
    with pytest.raises(DataError, match=r"encoder for a, x\n.*one each of a, b, c"):
        built(encoder={"a": mlp, "x": mlp})
    with pytest.raises(DataError, match="Symile of one modality, a"):
        Symile({"a": [3]})


def test_two_processes_give_what_one_gives() -> None:
    # The second step has 5 rows: 2 for the one, 3 for the other.
    cases = [(method, SMALL, Retrieval(), samples(), 9, 2) for method in (Symile, CLIP)]
    alone, together = gradients(cases), run_gloo(2, gradients, cases)
    for expected, *found in zip(alone, *together, strict=True):
        for name, gradient in expected.items():
            assert gradient.abs().max() > 0, name
            for one in found:
                torch.testing.assert_close(one[name], gradient, rtol=1e-4, atol=1e-5)


def test_is_rebuilt_from_files(tmp_path: Path) -> None:
    system = built(normalize=True)
    system.save_pretrained(tmp_path)
    again = Symile.from_pretrained(tmp_path)
    for name, x in system.embed(rows()).items():
        assert torch.equal(again.embed(rows())[name], x)
    assert torch.equal(again.scale(), system.scale())


def test_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def trained(folder: str, epochs: int, resume: Path | None = None) -> dict:
        options = {"max_epochs": epochs, "batch_size_global": 5, "accelerator": "cpu"}
        fit(
            built(),
            samples(),
            Retrieval(),
            tmp_path / folder,
            resume=resume,
            progress=False,
            **options,
        )
        return read_checkpoint(tmp_path / folder / "checkpoints" / "last.ckpt")["state_dict"]

    whole = trained("whole", 3)
    first = trained("parts", 1)
    rest = trained("parts", 3, tmp_path / "parts" / "checkpoints" / "last.ckpt")
    assert any(not torch.equal(first[name], whole[name]) for name in whole)
    for name, value in whole.items():
        assert torch.equal(rest[name], value), name


@pytest.mark.parametrize(("p_hat", "found"), [(1.0, 1.0), (0.0, 0.25)])
def test_finds_what_no_pair_of_modalities_tells(tmp_path: Path, p_hat: float, found: float) -> None:
    """Two binary digits: the candidates are four."""
    write_xor(tmp_path, p_hat=p_hat, dim=2, n_train=512, n_valid=64, n_test=512)
    data, task = load_table(tmp_path), Retrieval(target="b")
    accuracy = {}
    for method in (Symile, CLIP):
        torch.manual_seed(0)
        system = method.of(task.system_arguments(data), **XOR)
        system.make_optimizer = partial(torch.optim.AdamW, lr=0.1)
        options = {"max_epochs": 30, "batch_size_global": 256, "validate_every": 30}
        run = tmp_path / method.__name__
        fit(system, data, task, run, progress=False, accelerator="cpu", **options)
        evaluation = task.evaluate(system.eval(), data, "test")
        accuracy[method] = evaluation.metrics["accuracy"]
    assert accuracy[Symile] == pytest.approx(found, abs=0.1)
    assert accuracy[CLIP] == pytest.approx(0.25, abs=0.2)
    assert accuracy[Symile] > accuracy[CLIP] + 0.3 or p_hat == 0
