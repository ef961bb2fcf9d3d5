from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.augment.draws import Draws
from core.checkpoints import read_checkpoint
from core.data.checks import DataError
from core.data.samples import Samples
from core.losses import info_nce, soft_clip
from core.systems.m3col import M3CoL
from core.tasks.classification import Classification
from core.trainers import fit
from core.trainers.system import Batch
from tests.core.gloo import run_gloo
from tests.core.systems.shared_steps import gradients

SHAPES = {"a": [3], "b": [4], "c": [5]}
SMALL = {"dim": 6, "hidden_dim": 5}


def built(**arguments) -> M3CoL:
    torch.manual_seed(0)
    return M3CoL(SHAPES, {"label": 3}, **SMALL | arguments)


def rows(n: int = 8) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    inputs = {name: torch.randn(n, *shape, generator=g) for name, shape in SHAPES.items()}
    return inputs | {"label": torch.arange(n) % 3}


def samples(n: int = 22) -> Samples:
    inputs = rows(n)
    parts = torch.arange(n).tensor_split([n - 8, n - 4])
    splits = dict(zip(("train", "valid", "test"), parts, strict=True))
    return Samples(inputs, {"label": inputs.pop("label")}, splits, [str(i) for i in range(n)])


def drawn(system: M3CoL, n: int = 8, own: slice = slice(None)) -> Batch:
    batch = {name: x[own] for name, x in rows(n).items()}
    return batch | system.draw(batch, Draws(5, n, own, torch.device("cpu")))


def test_every_sample_and_modality_has_its_own_partner_and_weight() -> None:
    system = built()
    batch = drawn(system, 400)
    partner, weight = batch["partner"], batch["mix_weight"]
    assert torch.equal(partner.sort(1).values, torch.arange(400).expand(3, 400))
    assert (weight == 1).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert len(weight[weight < 1].unique()) > 400
    assert (partner[0] == partner[1]).sum() < 10
    assert not torch.equal(weight[0], weight[1])
    # Drawing leaves the process's own random numbers alone, and other ranks draw the same.
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    other = drawn(system, 400, slice(100, 200))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(other["partner"], partner)
    assert torch.equal(other["mix_weight"], weight)


def test_the_contrast_by_definition() -> None:
    system = built()
    batch = drawn(system)
    clean = [system.encoders[name](batch[name]) for name in SHAPES]
    total = torch.zeros(())
    for place, name in enumerate(SHAPES):
        partner, weight = batch["partner"][place], batch["mix_weight"][place]
        x = batch[name]
        mixed = system.encoders[name](weight[:, None] * x + (1 - weight)[:, None] * x[partner])
        target = torch.zeros(8, 8)
        for i in range(8):
            target[i, i] += weight[i]
            target[i, partner[i]] += 1 - weight[i]
        following = clean[(place + 1) % 3]
        scores = F.normalize(mixed) @ F.normalize(following).T / 0.1
        both = scores.log_softmax(1) + scores.log_softmax(0)
        total = total - (target * both).sum() / 8 / 2
    assert (batch["mix_weight"] < 1).any()
    torch.testing.assert_close(system.objective(batch)["contrast"], total)


def test_without_mixing_the_contrast_is_that_of_clip() -> None:
    system = built(mix_probability=0.0)
    batch = drawn(system)
    a, b, c = system.encode(batch)
    expected = info_nce(a, b, 0.1) + info_nce(b, c, 0.1) + info_nce(c, a, 0.1)
    torch.testing.assert_close(system.objective(batch)["contrast"], expected)


def test_two_modalities_are_aligned_both_ways() -> None:
    torch.manual_seed(0)
    system = M3CoL({"a": [3], "b": [4]}, {"label": 3}, **SMALL, switch=0.0)
    a, b = system.encode(rows())
    found = system.objective(rows())["contrast"]
    torch.testing.assert_close(found, soft_clip(a, b, 0.125) + soft_clip(b, a, 0.125))


def test_the_loss_is_supervised_plus_a_tenth_of_the_contrast_of_the_phase() -> None:
    mixing, soft = built(), built(switch=0.0)
    batch = drawn(mixing)
    before = {name: x.clone() for name, x in batch.items()}
    first, second = mixing.objective(batch), soft.objective(batch)
    for terms in (first, second):
        expected = terms["fusion"] + terms["unimodal"] + 0.1 * terms["contrast"]
        torch.testing.assert_close(terms["loss"], expected)
    # Mixing changes neither the samples nor what the classifiers see.
    for name, x in batch.items():
        assert torch.equal(x, before[name])
    for name in ("fusion", "unimodal"):
        assert torch.equal(first[name], second[name])
    assert first["contrast"] != second["contrast"]
    z = soft.encode(batch)
    label = batch["label"]
    torch.testing.assert_close(
        second["fusion"], F.cross_entropy(soft.fusion(torch.cat(z, 1)), label)
    )
    each = [F.cross_entropy(head(x), label) for head, x in zip(soft.heads.values(), z, strict=True)]
    torch.testing.assert_close(second["unimodal"], sum(each))
    bare = built(contrast_weight=0.0, unimodal_weight=0.0).objective(batch)
    assert torch.equal(bare["loss"], bare["fusion"])
    assert "contrast" not in bare


def test_samples_without_a_label_take_part_in_the_contrast_only() -> None:
    system = built(switch=0.0)
    batch = rows()
    some = {name: x[:5] for name, x in batch.items()}
    unknown = batch | {"label": batch["label"].masked_fill(torch.arange(8) >= 5, -1)}
    whole, part, found = (system.objective(b) for b in (batch, some, unknown))
    torch.testing.assert_close(found["fusion"], part["fusion"])
    torch.testing.assert_close(found["unimodal"], part["unimodal"])
    torch.testing.assert_close(found["contrast"], whole["contrast"])


def test_the_fusion_predicts_alone() -> None:
    system = built()
    before = system.predict(rows())
    for head in system.heads.values():
        torch.nn.init.normal_(head.layers[1].weight)
    assert torch.equal(system.predict(rows()), before)
    torch.nn.init.normal_(system.fusion.layers[1].weight)
    assert not torch.equal(system.predict(rows()), before)
    vectors = system.embed(rows())
    assert list(vectors) == ["a", "b", "c", "joint"]
    assert torch.equal(vectors["joint"], torch.cat([vectors[k] for k in "abc"], 1))


class Phases(M3CoL):
    """Keeps which epochs mixed."""

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        if not hasattr(self, "phases"):
            self.phases = []
        self.phases.append((self.current_epoch, self.mixes))
        return super().objective(batch)


def test_switches_after_a_third_of_the_epochs_also_when_resumed(tmp_path: Path) -> None:
    def trained(folder: str, resume: Path | None = None, **options) -> tuple[list, dict]:
        torch.manual_seed(0)
        system = Phases(SHAPES, {"label": 3}, **SMALL)
        run = tmp_path / folder
        options = {"max_epochs": 7, "batch_size_global": 5, "accelerator": "cpu"} | options
        task = Classification()
        fit(system, samples(), task, run, resume=resume, progress=False, **options)
        checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
        return system.phases, checkpoint["state_dict"]

    phases, whole = trained("whole")
    # int(0.33 * 7) = 2 epochs of three steps.
    assert phases == [(epoch, epoch < 2) for epoch in range(7) for _ in range(3)]

    class Killed(Exception):
        pass

    def kill(self: Phases, batch: Batch, batch_idx: int) -> None:
        if (self.current_epoch, batch_idx) == (2, 2):
            raise Killed
        M3CoL.on_train_batch_start(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Phases, "on_train_batch_start", kill)
        trained("parts", checkpoint_every_n_steps=1)
    rest, weights = trained("parts", tmp_path / "parts" / "checkpoints" / "last.ckpt")
    assert rest == [(2, False)] + [(epoch, False) for epoch in range(3, 7) for _ in range(3)]
    for name, value in whole.items():
        assert torch.equal(weights[name], value), name


def test_two_processes_give_what_one_gives() -> None:
    # The second step has 5 rows: 2 for the one, 3 for the other.
    phases = [SMALL | {"switch": switch} for switch in (1.0, 0.0)]
    cases = [(M3CoL, phase, Classification(), samples(), 9, 2) for phase in phases]
    alone, together = gradients(cases), run_gloo(2, gradients, cases)
    for expected, *found in zip(alone, *together, strict=True):
        for name, gradient in expected.items():
            assert gradient.abs().max() > 0, name
            for one in found:
                torch.testing.assert_close(one[name], gradient, rtol=1e-4, atol=1e-5)


def test_is_rebuilt_from_files(tmp_path: Path) -> None:
    system = built()
    system.save_pretrained(tmp_path)
    again = M3CoL.from_pretrained(tmp_path)
    assert torch.equal(again.predict(rows()), system.predict(rows()))


def test_refuses_what_it_cannot_learn_from() -> None:
    with pytest.raises(DataError, match="M3CoL of one modality, a"):
        M3CoL({"a": [3]}, {"label": 3})
    with pytest.raises(DataError, match="the data have no `label`"):
        M3CoL(SHAPES, {"kind": 3})
    image = {"a": [3], "image": [3, 32, 32]}
    with pytest.raises(DataError, match=r"encoders of widths a 6, image 512\n.*one width"):
        M3CoL(image, {"label": 3}, **SMALL)
    assert M3CoL(image, {"label": 3}, dim=512, hidden_dim=4).fusion.layers[1].in_features == 1024
    with pytest.raises(DataError, match="without partners"):
        built().objective(rows())
