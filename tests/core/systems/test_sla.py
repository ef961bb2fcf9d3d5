import shlex
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.augment.shifts import RandomRoll
from core.checkpoints import read_checkpoint
from core.consilience import main
from core.data.checks import DataError
from core.data.samples import Samples
from core.systems.sla import SLA, aggregated, distillation, joint_labels, single
from core.systems.supervised import Supervised
from core.tasks.transformed_classification import TransformedClassification
from core.trainers import System, fit
from tests.core.gloo import run_gloo
from tests.core.systems.shared_steps import gradients

ROTATIONS = {"_target_": "core.augment.transformations.Rotations"}
# Without batch norm, whose statistics are each process's own.
MLP = {"encoder": {"_target_": "core.encoders.mlp.MLP", "hidden": [8], "dim": 6}}
TASK = TransformedClassification(RandomRoll())


def samples(n: int = 22) -> Samples:
    images = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    parts = torch.arange(n).tensor_split([n - 8, n - 4])
    splits = dict(zip(("train", "valid", "test"), parts, strict=True))
    label = torch.arange(n) % 3
    return Samples({"image": images}, {"label": label}, splits, [str(i) for i in range(n)])


def built(kind: type[System] = SLA, **arguments) -> System:
    torch.manual_seed(0)
    return kind.of(TASK.system_arguments(samples()), **MLP | arguments)


def batch(n: int = 6) -> dict[str, Tensor]:
    images = samples().inputs["image"][:n]
    return {"image": images, "views": images[None], "label": torch.arange(n) % 3}


def copies(images: Tensor) -> list[Tensor]:
    return [images.rot90(k, (2, 3)) for k in range(4)]


def test_the_joint_label_is_class_major_and_the_rows_sample_major() -> None:
    assert joint_labels(torch.tensor([2, 0, -1]), 3).tolist() == [6, 7, 8, 0, 1, 2, -1, -1, -1]
    system = built()
    costs = []
    for image, label in zip(batch()["image"], batch()["label"], strict=True):
        for j, copy in enumerate(copies(image[None])):
            logits = system.joint(system.encoder(copy))
            costs.append(F.cross_entropy(logits, label[None] * 4 + j))
    torch.testing.assert_close(system.objective(batch())["loss"], torch.stack(costs).mean())
    large = built(with_large_loss=True).objective(batch())["loss"]
    torch.testing.assert_close(large, 4 * torch.stack(costs).mean())


def test_a_perfect_joint_classifier_is_perfect_aggregated_and_alone() -> None:
    """In transformation-major order the same logits would be read at other classes."""
    label = torch.tensor([2, 0, 1, 1])
    logits = 9.0 * F.one_hot(joint_labels(label, 4), 12)
    assert torch.equal(aggregated(logits, 4).argmax(1), label)
    assert torch.equal(single(logits[::4], 4).argmax(1), label)
    torch.testing.assert_close(aggregated(logits, 4), 9.0 * F.one_hot(label, 3))


def test_aggregation_is_of_logits_each_at_its_own_transformation() -> None:
    system = built().eval()
    found = system.predict(batch())
    joint = [
        system.joint(system.encoder(copy)).unflatten(1, (3, 4)) for copy in copies(batch()["image"])
    ]
    expected = torch.stack([logits[:, :, j] for j, logits in enumerate(joint)]).mean(0)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(system.predict_single(batch()), joint[0][:, :, 0])
    marginal = joint[0].logsumexp(2)
    assert not torch.allclose(marginal.softmax(1), system.predict_single(batch()).softmax(1))
    alone = built(inference="single").eval()
    assert torch.equal(alone.predict(batch()), system.predict_single(batch()))


def test_the_student_learns_from_a_fixed_teacher() -> None:
    system = built(inference="distilled", distillation_temperature=2.0)
    terms = system.objective(batch())
    torch.testing.assert_close(
        terms["loss"], terms["joint"] + terms["student"] + terms["distillation"]
    )
    terms["distillation"].backward()
    assert system.joint.weight.grad is None
    assert system.student.weight.grad.abs().max() > 0
    torch.testing.assert_close(terms["joint"], built().objective(batch())["loss"], atol=2, rtol=1)
    scores = system.student(system.encoder(batch()["image"]))
    assert torch.equal(system.predict(batch()), scores)
    teacher = aggregated(
        system.joint(system.encoder(torch.stack(copies(batch()["image"]), 1).flatten(0, 1))), 4
    )
    p, q = (teacher / 2).softmax(1), (scores / 2).softmax(1)
    expected = 4 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(terms["distillation"], expected)
    assert not torch.allclose(distillation(scores, teacher, 2.0), expected)


def test_a_head_on_all_copies_learns_the_class_and_another_the_transformation() -> None:
    plain, da = built(Supervised), built(Supervised, transformations=ROTATIONS)
    mt = built(Supervised, transformations=ROTATIONS, predict_transformation=True)
    label, turned = batch()["label"], copies(batch()["image"])
    logits = plain.head(plain.encoder(turned[0]))
    torch.testing.assert_close(plain.objective(batch())["loss"], F.cross_entropy(logits, label))
    each = torch.stack([F.cross_entropy(da.head(da.encoder(x)), label) for x in turned])
    torch.testing.assert_close(da.objective(batch())["loss"], each.mean())
    pretext = [
        F.cross_entropy(mt.pretext(mt.encoder(x)), torch.full((6,), j))
        for j, x in enumerate(turned)
    ]
    terms = mt.objective(batch())
    torch.testing.assert_close(terms["transformations"], torch.stack(pretext).mean())
    torch.testing.assert_close(terms["loss"], terms["classes"] + terms["transformations"])


def test_averaging_is_over_the_logits_of_all_copies() -> None:
    system = built(Supervised, transformations=ROTATIONS, average=True).eval()
    logits = torch.stack([system.head(system.encoder(x)) for x in copies(batch()["image"])])
    torch.testing.assert_close(system.predict(batch()), logits.mean(0))
    torch.testing.assert_close(system.predict_single(batch()), logits[0])
    alone = built(Supervised, transformations=ROTATIONS).eval()
    torch.testing.assert_close(alone.predict(batch()), logits[0])


def test_samples_without_a_label_are_not_learned_from() -> None:
    unknown = batch() | {"label": batch()["label"].masked_fill(torch.arange(6) >= 4, -1)}
    for system in (built(), built(Supervised, transformations=ROTATIONS)):
        known = {name: x[:, :4] if name == "views" else x[:4] for name, x in batch().items()}
        torch.testing.assert_close(
            system.objective(unknown)["loss"], system.objective(known)["loss"]
        )


@pytest.mark.parametrize(
    ("shape", "width"), [([1, 8, 8], 192), ([3, 32, 32], 64), ([16], 128)], ids=str
)
def test_the_usual_trunk_follows_the_size(shape: list[int], width: int) -> None:
    for kind in (SLA, Supervised):
        system = kind({"x": shape}, {"label": 3})
        assert system.embed({"x": torch.rand(2, *shape)})["x"].shape == (2, width)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (SLA, {"inference": "joint"}, "inference=joint"),
        (SLA, {"n_classes": {"kind": 2}}, "no `label`"),
        (Supervised, {"average": True}, "no transformations"),
        (Supervised, {"predict_transformation": True}, "no transformations"),
        (Supervised, {"n_classes": {}}, "no `label`"),
    ],
)
def test_what_cannot_be(kind: type[System], arguments: dict, message: str) -> None:
    sizes = {"shapes": {"x": [1, 8, 8]}, "n_classes": {"label": 3}}
    with pytest.raises(DataError, match=message):
        kind(**sizes | arguments)


def run(folder: Path, epochs: int, resume: bool = False) -> System:
    last = folder / "checkpoints" / "last.ckpt"
    system = built(inference="distilled")
    fit(
        system,
        samples(),
        TASK,
        folder,
        seed=3,
        max_epochs=epochs,
        batch_size_global=9,
        accelerator="cpu",
        progress=False,
        resume=last if resume else None,
    )
    return system


def test_a_resumed_run_is_the_unbroken_one(tmp_path: Path) -> None:
    unbroken = run(tmp_path / "unbroken", 3)
    run(tmp_path / "run", 1)
    resumed = run(tmp_path / "run", 3, resume=True)
    torch.testing.assert_close(resumed.state_dict(), unbroken.state_dict(), rtol=0, atol=0)
    resumed.save_pretrained(tmp_path / "hub")
    again = SLA.from_pretrained(tmp_path / "hub")
    assert torch.equal(again.predict(batch()), resumed.eval().predict(batch()))


def test_two_processes_give_what_one_gives() -> None:
    # The second step has 5 rows: 2 for the one, 3 for the other.
    kinds = [
        (SLA, MLP | {"inference": "distilled"}),
        (Supervised, MLP),
        (Supervised, MLP | {"transformations": ROTATIONS, "predict_transformation": True}),
    ]
    cases = [(kind, arguments, TASK, samples(), 9, 2) for kind, arguments in kinds]
    alone, together = gradients(cases), run_gloo(2, gradients, cases)
    for expected, *found in zip(alone, *together, strict=True):
        for name, gradient in expected.items():
            assert gradient.abs().max() > 0, name
            for one in found:
                torch.testing.assert_close(one[name], gradient, rtol=1e-4, atol=1e-6)


def consilience(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["consilience", *shlex.split(line)])
    main()


@pytest.mark.parametrize("system", ["sla", "supervised"])
def test_the_command_trains_and_goes_on(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = "data=digits_few_demo demo.per_class=5 trainer.accelerator=cpu"
    consilience(f"train system={system} {few} trainer.max_epochs=2", monkeypatch)
    consilience(f"train system={system} resume=last trainer.max_epochs=4", monkeypatch)
    (folder,) = tmp_path.glob(f"runs/core/{system}/*")
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 4
    assert "single_accuracy" in capsys.readouterr().out
