"""compare: a method against its own paper's baseline on the user's data.

Both arms get the same data, data order, seeds, budget and number of tuning trials; tuning and the
choice of checkpoints see the validation split alone, and the test split is looked at once for each
trained model. Beside them stand the method's ablations, the untrained method and references.
"""

import itertools
import json
import re
import shutil
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf, open_dict

from core.build import build, build_system
from core.comparison_report import conclude, present
from core.data.checks import DataError
from core.trainers import Data, Task
from core.verbs import (
    device_of,
    environment,
    evaluate_checkpoint,
    read_data,
    saved_config,
    train_run,
    write_json,
)

# Tuning has a seed of its own, so that no trial is one of the runs that are compared.
TUNING_SEED = 1_000_000


@dataclass
class Arm:
    """One side of the comparison.

    Attributes:
        name: as it is printed.
        system: the slug of its method.
        config: of its runs; the seed is set for each.
        is_trained: False for the untrained method and for references.
        fixed: keys that tuning must leave alone.
        tuned: what tuning chose, key -> value.
        trials: what tuning tried, `values` and the `validation` score of each.
    """

    name: str
    system: str
    config: DictConfig
    is_trained: bool = True
    fixed: tuple[str, ...] = ()
    tuned: dict[str, Any] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)

    def with_values(self, values: dict[str, Any]) -> "Arm":
        """The same arm with other values in its config."""
        config = self.config.copy()
        for key, value in values.items():
            OmegaConf.update(config, key, value)
        return Arm(self.name, self.system, config, self.is_trained, self.fixed, values)

    def folder(self, parent: Path) -> Path:
        """Where its runs go."""
        return parent / re.sub(r"[^A-Za-z0-9_.-]+", "-", self.name).strip("-")


def compare(config: DictConfig) -> dict[str, Any]:
    """Runs the comparison that the config names, and prints, draws and writes what it found.

    A run that is finished is not run again: its folder follows from the configs and the data.
    Checkpoints are deleted once their test is done.

    Returns:
        What `compare.json` holds.

    Raises:
        DataError: there is no validation or test split, no seed, or more than one device.
    """
    task: Task = build(config.task)
    data = read_data(config)
    seeds = _checked(config, task, data)
    arms = _arms(config)
    same = {"arms": {arm.name: saved_config(arm.config) for arm in arms}, "tune": config.tune}
    same |= {"grids": [_grid(arm, config) for arm in arms[:2]]}
    same |= {"data": data.digest(), "version": version("consilience")}
    digest = sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:8]
    folder = Path("runs") / config.domain / "compare" / arms[0].system / digest
    print(f"comparing {arms[0].name} with {arms[1].name} in {folder}", flush=True)

    n_trials = _n_trials(arms, config)
    arms = _tuned(arms, n_trials, config, data, folder)
    results: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    for seed, arm in itertools.product(seeds, arms):
        result = _result(arm, seed, data, task, folder)
        results[arm.name].append(result)
        print(
            f"  seed {seed}  {arm.name:24} test {task.monitor} "
            f"{result['metrics'][task.monitor]:.4f}  {result['epochs']} epochs  "
            f"{result['seconds']:.1f} s",
            flush=True,
        )
    tuned = {arm.name: arm.tuned for arm in arms}
    also = config.compare.get("also", [])
    outcome = conclude(results, tuned, seeds, task.monitor, also)
    outcome["data"] = {"path": str(config.data.path), "digest": data.digest()}
    outcome["budget"] = OmegaConf.to_container(arms[0].config.trainer)
    outcome["tuning_trials"] = n_trials
    outcome["tuning"] = {arm.name: arm.trials for arm in arms[:2]}
    others = [arm for arm in arms[2:] if arm.is_trained and arm.system != arms[0].system]
    outcome["not_tuned"] = [arm.name for arm in others] if n_trials else []
    outcome["environment"] = environment()
    target = Path(config.out) if config.out else folder
    target.mkdir(parents=True, exist_ok=True)
    present(outcome, results, target)
    write_json(target / "compare.json", outcome)
    print(f"wrote {target / 'compare.json'}")
    return outcome


def _checked(config: DictConfig, task: Task, data: Data) -> list[int]:
    """The seeds to run, once it is clear that there is something to compare on."""
    for split in ("valid", "test"):
        if not task.has_split(data, split):
            raise DataError(
                f"a comparison needs a {split} split and these data have none",
                path=config.data.path,
                fix="let data.split=ratio, leave_one_out or by_time make the splits",
            )
    if config.trainer.devices != 1 or config.trainer.num_nodes != 1:
        raise DataError(
            f"compare runs on one device, not on {config.trainer.devices}",
            fix="leave trainer.devices=1; share out the seeds instead: seeds=[0,1], seeds=[2,3]",
        )
    seeds = config.seeds
    seeds = list(range(seeds)) if isinstance(seeds, int) else seeds
    if isinstance(seeds, str | float) or not seeds or len(set(seeds)) < len(seeds):
        raise DataError(
            f"seeds={config.seeds}", expected="a number of seeds, or distinct ones: seeds=[3,4]"
        )
    if not isinstance(config.tune, int) or config.tune < 0:
        raise DataError(f"tune={config.tune}", expected="a number of trials, 0 for none")
    return list(seeds)


def _arms(config: DictConfig) -> list[Arm]:
    """Method, baseline, ablations, the untrained method, references; all with one budget."""
    ours = ("verb=", "system=", "compare", "seeds=", "tune=", "out=", "seed=")
    given = [o for o in HydraConfig.get().overrides.task if not o.lstrip("+~").startswith(ours)]
    choice = config.compare

    def composed(system: str, overrides: list[str], given: list[str]) -> DictConfig:
        lost = sorted(set(_keys(overrides)) & set(_keys(given)))
        if lost:
            raise DataError(
                f"{', '.join(lost)} is what makes one of the arms what it is",
                expected="settings that all arms can share",
                fix="leave it out, or change that arm: compare.method.overrides, "
                "compare.baseline.overrides, compare.ablations",
            )
        try:
            return compose("config", [f"system={system}", *overrides, *given])
        except ConfigCompositionException as error:
            raise DataError(
                f"{system}: {str(error.__cause__ or error).splitlines()[0]}",
                expected="settings that every arm has",
                fix="set the keys of one arm with \"compare.method.overrides=['KEY=VALUE']\" or "
                "\"compare.baseline.overrides=['KEY=VALUE']\"",
            ) from error

    method, baseline = choice.method, choice.baseline
    same = baseline.system == method.system
    name = baseline.get("name") or f"{baseline.system}{' (baseline)' if same else ''}"
    arms = [
        Arm(method.system, method.system, composed(method.system, method.overrides, given)),
        Arm(
            name,
            baseline.system,
            composed(baseline.system, baseline.overrides, given),
            # Where both arms are one system, these are what makes the baseline one.
            fixed=_keys(baseline.overrides),
        ),
    ]
    for name, ablation in choice.ablations.items():
        overrides = [*method.overrides, *ablation.overrides]
        ablated = composed(ablation.system, overrides, given)
        arms.append(Arm(name, ablation.system, ablated, fixed=_keys(ablation.overrides)))
    name = f"{method.system} untrained"
    # Of a method that trains in `prepare`, the comparison says how to leave that out.
    untrained = composed(method.system, [*method.overrides, *choice.get("untrained", [])], given)
    arms.append(Arm(name, method.system, untrained, is_trained=False))
    not_of_systems = [o for o in given if not o.startswith("system.")]
    for name in choice.references:
        if name not in (method.system, baseline.system):
            arms.append(Arm(name, name, composed(name, [], not_of_systems), is_trained=False))
    for arm in arms[1:]:
        with open_dict(arm.config):
            # The budget is the method's for every arm, whatever another paper trained for.
            arm.config.trainer = arms[0].config.trainer
    return arms


def _keys(overrides: list[str]) -> tuple[str, ...]:
    return tuple(text.split("=", 1)[0].lstrip("+") for text in overrides)


def _tuned(
    arms: list[Arm], n_trials: int, config: DictConfig, data: Data, folder: Path
) -> list[Arm]:
    """Method and baseline at the best of equally many trials each, judged on validation.

    The first trial is the arm's own config, the others are drawn from its grid. Ablations and the
    untrained method take over what tuning chose for the method.
    """
    if n_trials == 0:
        return arms
    points = [_grid(arm, config) for arm in arms[:2]]
    best = []
    for arm, grid in zip(arms[:2], points, strict=True):
        order = np.random.default_rng(TUNING_SEED).permutation(len(grid))
        trials: list[dict[str, Any]] = [{}, *(grid[i] for i in order[: n_trials - 1])]
        scores = []
        for number, values in enumerate(trials):
            trial, trial_dir = arm.with_values(values), arm.folder(folder) / f"trial-{number}"
            result = _read_result(trial_dir)
            if result is None:
                fitted = _train(trial, TUNING_SEED, data, trial_dir)
                result = {"validation": fitted["validation"]}
                _finish(trial_dir, result)
            scores.append(result["validation"])
            said = ", ".join(f"{k}={v}" for k, v in values.items()) or "its own config"
            print(f"  tuning {arm.name} {number + 1}/{n_trials}: {scores[-1]:.4f} with {said}")
        best.append(arm.with_values(trials[int(np.argmax(scores))]))
        best[-1].trials = [
            {"values": values, "validation": score}
            for values, score in zip(trials, scores, strict=True)
        ]
    method = best[0]
    for arm in arms[2:]:
        if arm.system == method.system:
            kept = {k: v for k, v in method.tuned.items() if k not in arm.fixed}
            best.append(arm.with_values(kept))
        else:
            best.append(arm)
    return best


def _n_trials(arms: list[Arm], config: DictConfig) -> int:
    """Trials of each arm: as many as asked for, if both grids have them; one alone is none."""
    n_trials = min(config.tune, *(1 + len(_grid(arm, config)) for arm in arms[:2]))
    return n_trials if n_trials > 1 else 0


def _grid(arm: Arm, config: DictConfig) -> list[dict[str, Any]]:
    """The points of the arm's grid, without the one that is its own config."""
    grid: dict[str, list[Any]] = OmegaConf.to_container(  # type: ignore[assignment]
        config.compare.grids.get(arm.system, OmegaConf.create({}))
    )
    grid = {key: values for key, values in grid.items() if key not in arm.fixed}
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    own = {key: OmegaConf.select(arm.config, key) for key in grid}
    return [point for point in points if point != own]


def _result(arm: Arm, seed: int, data: Data, task: Task, folder: Path) -> dict[str, Any]:
    """One run and its test, from disk where it is finished already."""
    run_dir = arm.folder(folder) / f"seed-{seed}"
    result = _read_result(run_dir)
    if result is None:
        if arm.is_trained:
            result = _train(arm, seed, data, run_dir)
            evaluation, _ = evaluate_checkpoint(
                run_dir / "checkpoints" / result.pop("checkpoint"), data, "test", arm.config
            )
        else:
            seed_everything(seed, verbose=False)
            on_device = data.to(device_of(arm.config))
            system = build_system(arm.config.system, task.system_arguments(data))
            system.to(device_of(arm.config)).prepare(on_device.without_test())
            evaluation = task.evaluate(system.eval(), on_device, "test")
            result = {"epochs": 0, "seconds": 0.0}
        result |= {"metrics": evaluation.metrics, "unit": evaluation.unit}
        run_dir.mkdir(parents=True, exist_ok=True)
        np.savez(
            run_dir / "units.npz",
            ids=evaluation.unit_ids,
            values=evaluation.per_unit[task.monitor],
        )
        _finish(run_dir, result)
    with np.load(run_dir / "units.npz", allow_pickle=False) as units:
        return result | {"unit_ids": units["ids"], "per_unit": units["values"]}


def _train(arm: Arm, seed: int, data: Data, run_dir: Path) -> dict[str, Any]:
    config = arm.config.copy()
    config.seed = seed
    last = run_dir / "checkpoints" / "last.ckpt"
    resume = last if last.is_file() else None
    fitted = train_run(config, data.without_test(), run_dir, resume, progress=False)
    return {
        "checkpoint": fitted.checkpoint.name,
        "validation": fitted.best_score,
        "best_epoch": fitted.best_epoch + 1,
        "epochs": fitted.epochs,
        "seconds": round(fitted.seconds, 2),
    }


def _read_result(run_dir: Path) -> dict[str, Any] | None:
    file = run_dir / "result.json"
    return json.loads(file.read_text()) if file.is_file() else None


def _finish(run_dir: Path, result: dict[str, Any]) -> None:
    write_json(run_dir / "result.json", result)
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
