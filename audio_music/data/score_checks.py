"""`audio-music data check data=scores`: what is wrong with scores and performances."""

from pathlib import Path
from typing import Any

from audio_music.data.log_filterbank import FPS, RATE
from audio_music.data.scores import load_scores
from core.data.checks import CheckReport, DataError
from core.data.findings import Findings


def check_scores(
    path: str | Path,
    **settings: Any,  # noqa: ANN401 - those of `load_scores`
) -> CheckReport:
    """Reads all files and lists the problems in place of stopping.

    Args:
        path: folder of `<piece>.npz`.
        settings: of `audio_music.data.scores.load_scores`.
    """
    findings = Findings(strict=False)
    facts: dict[str, str | int | float] = {}
    try:
        data = load_scores(path, findings=findings, **settings)
    except DataError as error:
        return CheckReport(facts, [*findings.problems, error], findings.warnings)
    seconds = data.spectrograms.lengths.sum() / FPS
    facts["pieces"] = len(data.pieces)
    facts["performances"] = f"{len(data.performances)}, {seconds / 60:.1f} minutes"
    facts["onsets with both snippets"] = len(data.piece)
    for name, rows in data.splits.items():
        facts[name] = f"{len(data.piece[rows].unique())} pieces, {len(rows)} onsets"
        if len(rows) == 0:
            findings.warn(f"the {name} split has no onset")
    for name, lines in data.unpaired.items():
        size = lines.lengths.sum()
        said = f"{size / RATE / 60:.1f} minutes" if name == "audio" else f"{size} pixels wide"
        facts[f"unpaired {name}"] = f"{len(lines)} files, {said}"
    for name in sorted({"audio", "sheet"} - set(data.unpaired)):
        findings.warn(
            f"nothing to pre-train the {name} encoder on: system.pretrain=none goes without"
        )
    return CheckReport(facts, findings.problems, sorted(set(findings.warnings)))
