import pytest
import torch
import yaml
from torch import Tensor

from core.augment.draws import Draws
from core.cli import domain_conf
from core.data.checks import DataError
from core.distributed import rank
from core.losses import local_attention, local_similarity, nt_xent
from core.trainers.schedules import cosine
from medical.data.load import load_cases
from medical.systems.velvet_med import OBJECTIVES, VELVETMed, _draw_wrong
from medical.volume_task import VolumesAndReports, tokenize
from tests.core.gloo import run_gloo
from tests.medical.systems.reports import SMALL, VOCABULARY, batch_of, small_velvet

TERMS = {
    "report",
    "sentence",
    "word",
    "completion",
    "fused_completion",
    "matching",
    "turns",
    "views",
    "reconstruction",
}


@pytest.fixture(scope="module")
def system() -> VELVETMed:
    return small_velvet().double()


def test_all_terms_have_weight_one_and_reach_every_parameter(system):
    system.zero_grad()
    terms = system.objective(batch_of(system))
    assert terms.keys() == {"loss", *TERMS}
    torch.testing.assert_close(terms["loss"], sum(terms[name] for name in TERMS))
    terms["loss"].backward()
    # What no objective uses would make distributed training wait for ever.
    untouched = [name for name, p in system.named_parameters() if p.grad is None]
    assert untouched == []
    assert all(p.grad.isfinite().all() for p in system.parameters())


@pytest.mark.parametrize("objectives", [["report"], ["vision"], ["text"], ["word"]])
def test_one_objective_alone_builds_only_what_it_uses(objectives):
    system = small_velvet(objectives=objectives)
    system.objective(batch_of(system))["loss"].backward()
    parts = {"vision.steps.4"} if objectives == ["word"] else set()
    parts |= {"vision.steps.3"} if objectives == ["word"] else set()
    parts |= {"vision"} if objectives == ["text"] else set()
    for name, parameter in system.named_parameters():
        unused = any(name.startswith(part) for part in parts)
        assert (parameter.grad is None) == unused, name


def _on_a_rank(counts: list[int]) -> tuple[Tensor, Tensor]:
    own = slice(sum(counts[: rank()]), sum(counts[: rank() + 1]))
    return _loss_and_gradient(own)


def _loss_and_gradient(own: slice) -> tuple[Tensor, Tensor]:
    system = small_velvet().double()
    loss = system.objective(batch_of(system, 6, own))["loss"]
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in system.parameters()])


def test_two_processes_equal_one():
    loss, gradient = _loss_and_gradient(slice(None))
    ranks = run_gloo(2, _on_a_rank, [4, 2])
    torch.testing.assert_close(torch.stack([r[0] for r in ranks]).mean(), loss)
    mean = torch.stack([r[1] for r in ranks]).mean(0)
    torch.testing.assert_close(mean, gradient, rtol=1e-6, atol=1e-8)


def test_the_gradient_is_that_of_the_value(system):
    batch = batch_of(system, 4)
    weights = [system.temperature, system.regions["word"].weight, system.adapter[0].weight]
    weights += [system.text.fusion_layers[0].cross.key.weight, system.reconstruct[4].weight]
    system.zero_grad()
    system.objective(batch)["loss"].backward()
    step = 1e-6
    for weight in weights:
        direction = torch.randn_like(weight)
        with torch.no_grad():
            slope = []
            for sign in (1, -1):
                weight += sign * step * direction
                slope.append(sign * system.objective(batch)["loss"])
                weight -= sign * step * direction
        found = float((weight.grad * direction).sum())
        assert found == pytest.approx(float(sum(slope)) / (2 * step), rel=1e-4, abs=1e-6)


def test_a_wrong_pair_is_never_the_own_one_and_follows_the_softmax():
    n = 3000
    scores = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    own = torch.arange(n) % 4
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    uniform[:8] = torch.tensor([0.0, 1 - 2**-24]).repeat(4)
    # Four rows at a time: their own candidates are the first to the fourth.
    groups = zip(scores.split(4), uniform.split(4), strict=True)
    drawn = torch.cat([_draw_wrong(of, 0, numbers) for of, numbers in groups])
    assert (drawn != own).all()
    expected = scores.scatter(1, own[:, None], -torch.inf).softmax(1)
    counts = torch.bincount(drawn, minlength=4) / n
    torch.testing.assert_close(counts, expected.mean(0), atol=0.03, rtol=0)


def test_a_wrong_pair_far_below_the_own_one_is_still_found():
    scores = torch.tensor([[1000.0, -1000.0]])
    assert _draw_wrong(scores, 0, torch.tensor([0.5])).tolist() == [1]


def test_one_pair_alone_has_no_wrong_one(system):
    with pytest.raises(DataError, match="a batch of one pair, in which none is wrong"):
        system.objective(batch_of(system, 1))


def test_reports_without_words_take_no_part_in_the_local_contrast(system):
    batch = batch_of(system, 6)  # the fifth says nothing
    kept = {
        name: values[:, [0, 1, 2, 3, 5]]
        if name in ("views", "uncut", "turns")
        else values[[0, 1, 2, 3, 5]]
        for name, values in batch.items()
    }
    with torch.no_grad():
        terms, without = system.objective(batch), system.objective(kept)
    for name in ("sentence", "word"):
        torch.testing.assert_close(terms[name], without[name])


def test_the_temperature_stays_above_its_least_value():
    system = small_velvet(objectives=["report"])
    optimizer = torch.optim.SGD([system.temperature], lr=1.0)
    system.temperature.grad = torch.tensor(5.0)
    optimizer.step()
    assert system.temperature < 0
    system.update_teachers(0, 1)
    assert float(system.temperature.detach()) == pytest.approx(0.01)
    system.objective(batch_of(system))["loss"].backward()
    assert system.temperature.grad.abs() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objectives": ["report", "words"]}, "system.objectives=.*words"),
        ({"objectives": []}, "system.objectives"),
        ({"objectives": ["multimodal"]}, "multimodal without report"),
        ({"temperature": 0.001}, "system.temperature=0.001"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(DataError, match=message):
        small_velvet(**arguments)


def test_refuses_cubes_of_other_sides():
    with pytest.raises(DataError, match=r"data\.size=48"):
        VELVETMed(VOCABULARY, 48, **SMALL)


def test_masks_only_words_and_never_with_tokens_of_sentences(system):
    batch = batch_of(system, 6)
    chosen, ids = batch["chosen"], batch["masked_ids"]
    assert chosen.any()
    assert (batch["kinds"][chosen] >= 3).all()
    assert torch.equal(ids[~chosen], batch["ids"][~chosen])
    assert (ids[chosen] < len(VOCABULARY)).all()


def test_what_is_drawn_does_not_depend_on_the_processes(system):
    whole = batch_of(system, 6)
    batch = {name: whole[name][2:5] for name in ("ids", "types", "kinds", "volume", "crop")}
    part = system.draw(batch, Draws(5, 6, slice(2, 5), torch.device("cpu")))
    for name in ("masked_ids", "chosen", "wrong"):
        assert torch.equal(part[name].to(whole[name].dtype), whole[name][2:5]), name
    assert torch.equal(part["turns"], whole["turns"][:, 2:5])


def test_a_text_of_one_part_attends_evenly():
    torch.manual_seed(0)
    weights = local_attention(torch.randn(1, 9, 4), torch.randn(1, 1, 4), torch.ones(1, 1).bool())
    torch.testing.assert_close(weights, torch.full((1, 1, 9), 1 / 9))


def test_longer_texts_have_larger_scores():
    torch.manual_seed(0)
    regions, parts = torch.randn(1, 9, 4), torch.randn(1, 1, 4)
    exists = torch.ones(1, 3, dtype=torch.bool)
    one = local_similarity(regions, parts, exists[:, :1])
    three = local_similarity(regions, parts.expand(1, 3, 4), exists)
    torch.testing.assert_close(three - one, torch.full((1, 1), 10 * torch.tensor(3.0).log()))


def test_untrained_objectives_cannot_be_asked_for():
    system = small_velvet(objectives=["report"])
    batch = batch_of(system)
    with pytest.raises(DataError, match="without the word objective"):
        system.attention(batch, "word")
    with pytest.raises(DataError, match="without the multimodal objective"):
        system.volume_tokens(batch["volume"])


def test_the_view_contrast_is_that_of_monai():
    from monai.losses import ContrastiveLoss

    torch.manual_seed(1)
    a, b = torch.randn(2, 6, 5)
    expected = ContrastiveLoss(temperature=0.5)(a, b)
    torch.testing.assert_close(nt_xent(a, b, 0.5), expected)


def test_the_swin_transformer_gives_five_maps_and_fits_into_swin_unetr():
    from monai.networks.nets import SwinUNETR

    system = VELVETMed(
        VOCABULARY, 32, **SMALL | {"embed_dim": 12, "depths": (1,) * 4, "heads": (1, 2, 3, 6)}
    )
    maps = system.vision(torch.rand(1, 1, 32, 32, 32))
    assert [list(m.shape[1:]) for m in maps] == [[12 * 2**n] + [16 // 2**n] * 3 for n in range(5)]
    net = SwinUNETR(1, 2, feature_size=12, depths=(1,) * 4, num_heads=(1, 2, 3, 6))
    net.swinViT.load_state_dict(system.vision.state_dict(), strict=True)
    assert set(OBJECTIVES) == system.objectives
    attention = system.eval().attention(batch_of(system, 2), "word")
    assert attention.shape[2:] == (4, 4, 4)


@pytest.mark.claim
def test_the_small_size_learns_a_batch_by_heart(request, demo):
    """With the report contrast alone every report finds its volume, and every volume its report."""
    if "claim" not in request.config.getoption("markexpr"):
        pytest.skip("a training, some seconds: pytest -m claim")
    data = load_cases(demo, size=32, spacing=(9.0, 9.0, 9.0), cache=False)
    rows = torch.tensor([data.reports.index(text) for text in sorted(set(data.reports))])
    small = yaml.safe_load((domain_conf("medical") / "size" / "tiny_volumes.yaml").read_text())
    task = VolumesAndReports(vocabulary_size=small["task"]["vocabulary_size"])
    torch.manual_seed(0)
    system = VELVETMed.of(task.system_arguments(data), **small["system"], objectives=["report"])
    batch = tokenize(system, data)[1].rows(rows) | {"volume": data.whole(rows)}
    optimizer = torch.optim.AdamW(system.parameters(), small["optimizer"]["lr"])
    schedule = cosine(optimizer, 100, **small["schedule"])
    for _ in range(100):
        optimizer.zero_grad()
        system.objective(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(system.parameters(), small["trainer"]["gradient_clip"])
        optimizer.step()
        schedule.step()
    found = system.eval().embed(batch)
    scores, own = found["volume"] @ found["report"].T, torch.arange(len(rows))
    assert torch.equal(scores.argmax(1), own)
    assert torch.equal(scores.argmax(0), own)
