"""Finding the report of a volume and the volume of a report, by levels and by matching."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.data.checks import DataError
from core.losses import local_similarity
from medical.data.cases import Cases
from medical.data.report_tokens import ReportTokens
from medical.systems.velvet_med import VELVETMed

# How the published evaluation calls similarities: by the top, middle and bottom map.
LEVELS = {"t": "report", "m": "sentence", "b": "word"}
SIMILARITIES = ("t", "tm", "tb", "tmb")
_ROWS = 16  # volumes or reports that are encoded at a time
_PAIRS = 32  # pairs that are matched at a time


def levels_of(similarity: str) -> list[str]:
    """The levels of a similarity such as `tm`."""
    return [LEVELS[letter] for letter in similarity]


@torch.no_grad()
def level_scores(
    system: VELVETMed,
    data: Cases,
    tokens: ReportTokens,
    rows: Int64[Tensor, " n"],
    levels: list[str],
) -> dict[str, Float[Tensor, "n n"]]:
    """Level -> scores of the volumes of these rows (first axis) with their reports.

    Cosines at the level of reports, `local_similarity` at those of sentences and words.

    Raises:
        DataError: the system was not trained at one of the levels.
    """
    trained = system.objectives
    missing = [level for level in levels if level not in trained]
    if missing:
        raise DataError(
            f"similarities of {', '.join(missing)} from a system that was trained without",
            expected=f"levels among {', '.join(sorted(trained & set(LEVELS.values())))}",
            fix="task.similarity=t, or other system.objectives in training",
        )
    texts = [system.report_parts(tokens.rows(some)) for some in rows.split(_ROWS)]
    scores: dict[str, list[Tensor]] = {level: [] for level in levels}
    for some in rows.split(_ROWS):
        volume = system.volume_parts({"volume": data.whole(some)})
        for level in levels:
            of_texts = [_scores(level, volume[level], text[level]) for text in texts]
            scores[level].append(torch.cat(of_texts, 1))
    return {level: torch.cat(parts) for level, parts in scores.items()}


def _scores(level: str, volume: Tensor, text: Any) -> Float[Tensor, "volumes reports"]:  # noqa: ANN401
    if level == "report":
        return volume @ text.T
    return local_similarity(volume, *text)


@torch.no_grad()
def match_scores(
    system: VELVETMed,
    data: Cases,
    tokens: ReportTokens,
    rows: Int64[Tensor, " n"],
    candidates: Int64[Tensor, "pairs 2"],
) -> Float[Tensor, " pairs"]:
    """The matching logit of pairs of a volume and a report, given by their places in `rows`.

    Raises:
        DataError: the system was trained without the multi-modal objectives.
    """
    context = torch.cat([system.volume_tokens(data.whole(some)) for some in rows.split(_ROWS)])
    states = torch.cat([system.text_states(tokens.rows(some)) for some in rows.split(_ROWS)])
    scores = [context.new_zeros(0)]
    for volume, report in (pairs.unbind(1) for pairs in candidates.split(_PAIRS)):
        batch = tokens.rows(rows[report])
        scores.append(system.match_scores(batch, states[report], context[volume]))
    return torch.cat(scores)


def among_candidates(
    scores: Float[Tensor, "queries gallery"],
    coarse: Float[Tensor, "queries gallery"],
    n_candidates: int,
) -> Float[Tensor, "queries gallery"]:
    """The scores of each query's best by the coarse ones; -inf for all others."""
    kept = coarse.topk(min(n_candidates, coarse.shape[1]), dim=1).indices
    return torch.full_like(scores, -torch.inf).scatter(1, kept, scores.gather(1, kept))


def both_directions(
    system: VELVETMed,
    data: Cases,
    tokens: ReportTokens,
    rows: Int64[Tensor, " n"],
    scores: dict[str, Float[Tensor, "n n"]],
    n_candidates: int,
    matching: bool,
) -> dict[str, Float[Tensor, "n n"]]:
    """Direction -> scores of each query (first axis) with its candidates.

    Levels are added up. The candidates of a query are the best by the level of reports; with
    `matching` their logits are added.
    """
    total = torch.stack(list(scores.values())).sum(0)
    both = {
        "volume_to_report": among_candidates(total, scores["report"], n_candidates),
        "report_to_volume": among_candidates(total.T, scores["report"].T, n_candidates),
    }
    if not matching:
        return both
    is_asked = both["volume_to_report"].isfinite() | both["report_to_volume"].T.isfinite()
    pairs = is_asked.nonzero()
    logits = torch.zeros_like(total)
    logits[pairs[:, 0], pairs[:, 1]] = match_scores(system, data, tokens, rows, pairs)
    return {
        "volume_to_report": both["volume_to_report"] + logits,
        "report_to_volume": both["report_to_volume"] + logits.T,
    }
