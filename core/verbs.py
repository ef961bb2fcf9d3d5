"""What each verb of a domain's command does, given the composed config."""

import json
import os
import platform
import shutil
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, open_dict

from core.build import build, build_system, is_part, targets
from core.checkpoints import OURS, find_checkpoint, load_system, read_checkpoint, weights_digest
from core.cli import conf_dir, domain_conf
from core.data.checks import DataError
from core.distributed import broadcast_object
from core.evaluation.evaluation import Evaluation
from core.evaluation.index import NeighbourIndex
from core.evaluation.statistics import bootstrap_mean
from core.report import print_table
from core.trainers import Data, Fit, Task, fit

_NOT_OF_THE_RUN = (
    "verb",
    "resume",
    "checkpoint",
    "split",
    "out",
    "query",
    "k",
    "path",
    "index",
    "index_kind",
    "seeds",
    "tune",
)


def run(config: DictConfig) -> None:
    """Runs the verb that the config names."""
    verbs = {
        "train": train,
        "evaluate": evaluate,
        "embed": embed,
        "index": index,
        "search": search,
        "compare": compare,
        "predict": predict,
    }
    verbs[config.verb](config)


def train(config: DictConfig) -> None:
    """Trains, or goes on training, in the run's folder; then evaluates the best checkpoint."""
    run_dir = _shared_run_dir()
    resume = None
    if config.resume is not None:
        resume = run_dir / "checkpoints" / "last.ckpt"
        if Path(config.resume).is_file():
            resume = Path(config.resume)
        if not resume.is_file():
            raise DataError("nothing to resume", path=resume, expected="a checkpoint")
        # Not from config.yaml: an earlier resume may have changed the budget.
        saved = OmegaConf.create(read_checkpoint(resume)[OURS]["config"])
        config = with_overrides(saved, config)
    try:
        data = read_data(config)
    except DataError:
        # Nothing was run, so no empty folder of a run is left; one with files stays.
        with suppress(OSError):
            run_dir.rmdir()
        raise
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        print(f"{'resuming' if resume else 'run'} {os.path.relpath(run_dir)}", flush=True)
    result = train_run(config, data, run_dir, resume)
    if not result.is_main_process:
        return
    metrics: dict[str, float] = {}
    task: Task = build(config.task)
    for split in ("valid", "test"):
        if task.has_split(data, split):
            evaluation = evaluate_checkpoint(result.checkpoint, data, split, config)[0]
            metrics |= {f"{split}/{name}": value for name, value in evaluation.metrics.items()}
            print_metrics(evaluation, f"{split}, epoch {result.best_epoch + 1}", task.monitor)
            draw_confusion(evaluation, split, run_dir)
            draw_pictures(result.checkpoint, data, split, config, run_dir)
    record = {
        "chosen_by": result.monitor,
        "best_epoch": result.best_epoch + 1,
        "epochs": result.epochs,
        "train_seconds": round(result.seconds, 2),
    }
    write_json(run_dir / "metrics.json", metrics | record)
    print(f"wrote {os.path.relpath(run_dir / 'metrics.json')}")


def train_run(
    config: DictConfig,
    data: Data,
    run_dir: Path,
    resume: Path | None = None,
    progress: bool = True,
) -> Fit:
    """Builds the system of a config and trains it in `run_dir`, which gets a record of the run."""
    task: Task = build(config.task)
    plain = saved_config(config)
    seed_everything(config.seed, verbose=False)
    system = build_system(config.system, task.system_arguments(data))
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    if resume is None:
        OmegaConf.save(OmegaConf.create(plain), run_dir / "config.yaml")
        write_json(run_dir / "environment.json", environment() | {"data": data.digest()})
        task.keep_reading(data, run_dir)
    else:
        _check_same_data(data, run_dir)
    try:
        return fit(
            system,
            data,
            task,
            run_dir,
            optimizer=build(config.optimizer),
            schedule=build(config.schedule),
            loggers=[build(logger)(run_dir) for logger in config.logger.values()],
            config=plain,
            seed=config.seed,
            resume=resume,
            progress=progress,
            **config.trainer,
        )
    except MisconfigurationException as error:
        raise DataError(str(error), fix="change the keys of trainer") from error


def read_data(config: DictConfig, **reading: str) -> Data:
    """Reads the data of a config; the demo data are written first where they are missing.

    Raises:
        DataError: no path was given, or what lies there cannot be used.
    """
    if OmegaConf.is_missing(config.data, "path"):
        raise DataError("no data", fix="give data.path=DIR, or data=demo for generated data")
    choice = str(HydraConfig.get().runtime.choices.get("data"))
    if choice.endswith("demo") and not Path(config.data.path).exists():
        build(config.demo, path=config.data.path)
    data: Data = build(config.data, **reading)
    return data


def evaluate(config: DictConfig) -> None:
    """The field's protocol on a checkpoint, as a table and as `metrics.json` of its run."""
    if config.split not in ("valid", "test"):
        raise DataError(f"split={config.split}", expected="split=valid or split=test")
    checkpoint = _checkpoint_of(config)
    config, data = _data_of_checkpoint(config, checkpoint)
    evaluation, choice = evaluate_checkpoint(checkpoint, data, config.split, config)
    print_metrics(evaluation, config.split, config.task.monitor)
    draw_confusion(evaluation, config.split, run_dir_of(checkpoint))
    draw_pictures(checkpoint, data, config.split, config, run_dir_of(checkpoint))
    chosen = f"{checkpoint}, epoch {choice['epoch'] + 1}"
    if choice["best_score"] is not None:
        chosen += (
            f"; the best was chosen by {choice['monitor']} = {choice['best_score']:.4f} "
            f"at epoch {choice['best_epoch'] + 1}"
        )
    print(f"checkpoint: {chosen}")
    file = run_dir_of(checkpoint) / "metrics.json"
    metrics = json.loads(file.read_text()) if file.exists() else {}
    metrics |= {f"{config.split}/{name}": value for name, value in evaluation.metrics.items()}
    metrics |= {"checkpoint": str(checkpoint), "chosen_by": choice["monitor"]}
    write_json(file, metrics)
    print(f"wrote {file}")


def embed(config: DictConfig) -> None:
    """Writes all embeddings with their ids to a Parquet file."""
    if config.out is None:
        raise DataError("where to?", fix="give out=FILE.parquet")
    out = Path(config.out)
    wrong = DataError(f"out={out}", expected="the name of a .parquet file")
    if out.suffix not in ("", ".parquet") or (out.suffix and out.is_dir()):
        raise wrong
    checkpoint = _checkpoint_of(config)
    config, data = _data_of_checkpoint(config, checkpoint)
    system, task = load_system(checkpoint)[0].to(device_of(config)), build(config.task)
    if not out.suffix:
        # A field may have files of its own for what it embeds, such as bags of a slide's patches.
        if not hasattr(task, "embed_into"):
            raise wrong
        print_table(task.embed_into(system, data, out), str(out))
        return
    table = task.embed(system, data)
    out.parent.mkdir(parents=True, exist_ok=True)
    # A field may have a standard for what a table says of itself, such as GeoParquet.
    metadata = task.parquet_metadata(table) if hasattr(task, "parquet_metadata") else None
    table.write_parquet(out, metadata=metadata)
    counts = table.group_by("kind", maintain_order=True).len()
    rows = [
        {"kind": kind, "rows": n, "width": len(table.row(by_predicate=None, index=0)[2])}
        for kind, n in counts.iter_rows()
    ]
    print_table(rows, f"{out}: columns kind, id, embedding")


def search(config: DictConfig) -> None:
    """Prints the nearest neighbours of a query."""
    if config.query is None:
        raise DataError("what for?", fix="give query=KIND:ID")
    if not isinstance(config.k, int) or config.k < 1:
        raise DataError(f"k={config.k}", expected="a number of neighbours, 1 or more")
    checkpoint = _checkpoint_of(config)
    config, data = _data_of_checkpoint(config, checkpoint)
    system, task = load_system(checkpoint)[0].to(device_of(config)), build(config.task)
    index = None
    if config.index is not None:
        source = f"{weights_digest(system)}-{data.digest()}"
        index = NeighbourIndex.read(Path(config.index), source)
    query = str(config.query)
    rows = task.search(system, data, query, config.k, index)
    print_table(rows, query)
    if rows and hasattr(task, "draw_search"):
        file = Path(config.out) if config.out else run_dir_of(checkpoint) / "search.png"
        task.draw_search(data, query, rows, file)
        print(f"wrote {file}")


def predict(config: DictConfig) -> None:
    """Prints what happens when in a new recording, where the field's task can say so."""
    if config.predict.file is None:
        raise DataError("in what?", fix="give predict.file=FILE")
    checkpoint = _checkpoint_of(config)
    config, data = _data_of_checkpoint(config, checkpoint)
    system, task = load_system(checkpoint)[0].to(device_of(config)), build(config.task)
    asked: dict[str, Any] = OmegaConf.to_container(config.predict, resolve=True)  # type: ignore[assignment]
    table = task.predict(system, data, **asked)
    print_table(table.to_dicts(), Path(config.predict.file).name)
    if config.out is not None:
        Path(config.out).parent.mkdir(parents=True, exist_ok=True)
        table.write_parquet(config.out)
        print(f"wrote {config.out}")


def index(config: DictConfig) -> None:
    """Builds approximate neighbours of a checkpoint's embeddings and prints what they miss."""
    if config.out is None:
        raise DataError("where to?", fix="give out=DIR")
    checkpoint = _checkpoint_of(config)
    config, data = _data_of_checkpoint(config, checkpoint)
    system, task = load_system(checkpoint)[0].to(device_of(config)), build(config.task)
    spaces = {
        name: (vectors.cpu().numpy(), queries.cpu().numpy())
        for name, (vectors, queries) in task.index_spaces(system, data).items()
    }
    vectors = {name: pair[0] for name, pair in spaces.items()}
    source = f"{weights_digest(system)}-{data.digest()}"
    built = NeighbourIndex(vectors, source, config.index_kind)
    built.write(Path(config.out))
    rows = []
    for name, (found, queries) in spaces.items():
        drawn = np.random.default_rng(0).permutation(len(queries))[:1000]
        recall = built.recall(name, found, queries[drawn], config.k)
        rows.append(
            {"space": name, "vectors": len(found), f"recall of the exact {config.k}": recall}
        )
    print_table(rows, f"{config.out}: {config.index_kind}, against exact search of 1000 queries")


def compare(config: DictConfig) -> None:
    """The method against its paper's baseline: see core.compare."""
    from core.compare import compare as run_comparison

    run_comparison(config)


def evaluate_checkpoint(
    checkpoint: Path, data: Data, split: str, config: DictConfig
) -> tuple[Evaluation, dict[str, Any]]:
    """Evaluates a checkpoint on the device of the config; also returns what chose it."""
    system, _, choice = load_system(checkpoint)
    device = device_of(config)
    task: Task = build(config.task)
    return task.evaluate(system.to(device), data.to(device), split), choice


def with_overrides(saved: DictConfig, config: DictConfig) -> DictConfig:
    """A saved config with what this command line sets; its system stays what it was.

    Raises:
        DataError: the command line names another system, or the saved config would call something
            that neither the project's configs nor this command line name.
    """
    _refuse_foreign_targets(saved, config)
    saved = saved.copy()
    for text in HydraConfig.get().overrides.task:
        key = OverridesParser.create().parse_override(text).key_or_group.split("@")[0]
        if key == "system" and saved.system._target_ != config.system._target_:
            raise DataError(f"{text}: the checkpoint is of {saved.system._target_}")
        if key in _NOT_OF_THE_RUN or key in ("system", "compare"):
            continue
        key = key.replace("/", ".")
        OmegaConf.update(saved, key, OmegaConf.select(config, key), force_add=True)
    with open_dict(saved):
        for key in _NOT_OF_THE_RUN:
            saved[key] = config[key]
    return saved


def _refuse_foreign_targets(saved: DictConfig, config: DictConfig) -> None:
    # A checkpoint may come from anyone, and a target is code that is run.
    known = set(targets(OmegaConf.to_container(config)))
    for folder in (conf_dir("core"), domain_conf(config.domain)):
        for file in folder.rglob("*.yaml"):
            known.update(targets(yaml.safe_load(file.read_text())))
    called = set(targets(OmegaConf.to_container(saved))) - known
    foreign = sorted(target for target in called if not is_part(target))
    if foreign:
        raise DataError(
            f"the checkpoint's config would call {', '.join(foreign)}",
            expected="only what the configs of this project call",
            fix="if you trust it, name the target on the command line, e.g. data._target_=...",
        )


def saved_config(config: DictConfig) -> dict[str, Any]:
    """The config of a run as plain values, without what only this command was asked."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return {k: v for k, v in plain.items() if k not in (*_NOT_OF_THE_RUN, "compare")}


def environment() -> dict[str, str]:
    """Versions and machine, for the record of a run."""
    packages = ("consilience", "torch", "lightning", "numpy")
    record = {name: version(name) for name in packages} | {"python": platform.python_version()}
    record["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if shutil.which("git") is None:
        return record
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return record | ({"git": git.stdout.strip()} if git.returncode == 0 else {})


def print_metrics(evaluation: Evaluation, title: str, monitor: str) -> None:
    """A table with a column for every K, and the interval over the test units of one metric."""
    rows: dict[str, dict[str, Any]] = {}
    for name, value in evaluation.metrics.items():
        metric, _, k = name.partition("@")
        k, _, part = k.partition("/")  # recall@50/tail: of a part of the units
        metric += f", {part}" if part else ""
        rows.setdefault(metric, {"metric": metric})[f"@{k}" if k else "value"] = value
    print_table(list(rows.values()), title)
    if evaluation.table:
        print_table(evaluation.table, f"{title}, by {evaluation.unit}")
    if monitor in evaluation.per_unit and len(evaluation.unit_ids) > 1:
        interval = bootstrap_mean(evaluation.per_unit[monitor])
        print(
            f"{monitor} {interval.mean:.4f}, 95 % interval over {interval.n} {evaluation.unit}s "
            f"{interval.low:.4f} to {interval.high:.4f}"
        )


def draw_confusion(evaluation: Evaluation, split: str, folder: Path) -> None:
    """Draws which classes were taken for which, where the evaluation is of classes."""
    if evaluation.confusion is not None:
        file = folder / f"confusion_{split}.png"
        accuracy = evaluation.metrics["accuracy"]
        evaluation.confusion.draw(file, f"{split}: accuracy {100 * accuracy:.1f} %")
        print(f"wrote {os.path.relpath(file)}")


def draw_pictures(
    checkpoint: Path, data: Data, split: str, config: DictConfig, folder: Path
) -> None:
    """Draws what the field's task has to show of a split, e.g. attention or segmentations."""
    task: Task = build(config.task)
    if hasattr(task, "draw"):
        device = device_of(config)
        system = load_system(checkpoint)[0].to(device)
        for file in task.draw(system, data.to(device), split, folder):
            print(f"wrote {os.path.relpath(file)}")


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file in one step."""
    # Processes that train together write the same file at the same time.
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, file)


def run_dir_of(checkpoint: Path) -> Path:
    """The folder of the run that wrote a checkpoint."""
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def _shared_run_dir() -> Path:
    """Hydra's folder of this run; processes that torchrun started take that of the first."""
    own = Path(HydraConfig.get().runtime.output_dir)
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return own
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    shared = broadcast_object(own)
    if shared != own and own.is_dir() and not any(own.iterdir()):
        own.rmdir()
    return shared


def _check_same_data(data: Data, run_dir: Path) -> None:
    record = run_dir / "environment.json"
    if record.is_file() and json.loads(record.read_text())["data"] != data.digest():
        raise DataError(
            "the run cannot go on exactly: these are not the data it was trained on",
            path=run_dir,
            fix="resume with the run's own data, or train anew",
        )


def _checkpoint_of(config: DictConfig) -> Path:
    if config.checkpoint is None:
        raise DataError("no checkpoint", fix="give checkpoint=RUN, a run folder or a .ckpt file")
    return find_checkpoint(config.checkpoint)


def _data_of_checkpoint(config: DictConfig, checkpoint: Path) -> tuple[DictConfig, Data]:
    saved = OmegaConf.create(load_system(checkpoint)[1])
    config = with_overrides(saved, config)
    reading = build(config.task).reading(run_dir_of(checkpoint))
    return config, read_data(config, **reading).to(device_of(config))


def device_of(config: DictConfig) -> torch.device:
    """Where a config's evaluations run."""
    accelerator = config.trainer.accelerator
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")
