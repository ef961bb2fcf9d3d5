"""The demo collects what the comparisons wrote."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

import core.demo
from core.comparison_report import conclude
from core.consilience import DOMAINS
from core.data.checks import DataError
from core.demo import demo, flagship


def outcome() -> dict[str, object]:
    rng = np.random.default_rng(0)
    results = {
        arm: [
            {
                "metrics": {"recall@20": level + 0.001 * seed},
                "per_unit": rng.random(30),
                "unit": "user",
                "epochs": 5,
                "seconds": 1.0,
            }
            for seed in range(3)
        ]
        for arm, level in (("bm3", 0.31), ("lightgcn", 0.29))
    }
    found = conclude(results, {"bm3": {}, "lightgcn": {}}, [0, 1, 2], "recall@20")
    return found | {
        "budget": {"max_epochs": 100},
        "tuning_trials": 0,
        "tuning": {},
        "not_tuned": [],
    }


def test_flagships() -> None:
    assert flagship("recsys") == "bm3"
    assert flagship("har") == "har_hard_negatives"
    assert flagship("medical") == "velvet_med"
    assert flagship("core") is None


def test_the_page_holds_every_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = []

    def compare(
        command: list[str], env: dict[str, str], check: bool
    ) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        out = Path(dict(c.split("=", 1) for c in command if "=" in c)["out"])
        out.mkdir(parents=True)
        (out / "compare.json").write_text(json.dumps(outcome()))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(core.demo.subprocess, "run", compare)
    monkeypatch.chdir(tmp_path)
    path = demo(DOMAINS)

    assert path == Path("runs/demo/report.html")
    assert capsys.readouterr().out.endswith("wrote runs/demo/report.html\n")
    assert [command[3:9] for command in commands] == [
        [f"{d}.cli", "compare", flagship(d), "seeds=3", "tune=0", f"out=runs/demo/{d}"]
        for d in DOMAINS
        if flagship(d)
    ]
    # What takes long by itself is asked for less.
    asked = {command[3].removesuffix(".cli"): command[9:] for command in commands}
    assert asked["recsys"] == []
    assert "trainer.max_epochs=20" in asked["har"]
    page = path.read_text()
    assert "<h2>recsys: bm3 against lightgcn</h2>" in page
    assert page.count("<img") == len(commands) > 0
    assert "0.3110" in page, "the mean of the method"


def test_a_comparison_that_fails_ends_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        core.demo.subprocess, "run", lambda c, env, check: subprocess.CompletedProcess(c, 3)
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="`recsys compare bm3` ended with 3"):
        demo(DOMAINS)
    assert not Path("runs/demo/report.html").exists()
