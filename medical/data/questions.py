"""Questions about volumes that are answered by yes or no: of the user's, or from known findings."""

import csv
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from core.data.checks import DataError
from medical.data.cases import Cases

_ANSWERS = {"yes": True, "no": False}
_ASKED = (
    "Is there {kind} in the {site}?",
    "Does the scan show {kind} of the {site}?",
    "Can {kind} be seen in the {site}?",
)


@dataclass(frozen=True)
class Question:
    """A question about a case.

    Attributes:
        row: of the case.
        text: what is asked.
        answer: whether the answer is yes.
    """

    row: int
    text: str
    answer: bool


def read_questions(file: str | Path, data: Cases) -> list[Question]:
    """Questions of a CSV with the columns `case`, `question` and `answer` (yes or no).

    Raises:
        DataError: the file cannot be read, or a line names no case or another answer.
    """
    file = Path(file)
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            lines = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({type(error).__name__})", path=file) from error
    row_of = {name: row for row, name in enumerate(data.ids)}
    known_elsewhere = 0
    questions = []
    for number, line in enumerate(lines, 2):
        missing = [name for name in ("case", "question", "answer") if not line.get(name)]
        if missing:
            raise DataError(
                f"no {', '.join(missing)}",
                path=file,
                line=number,
                expected="the columns case, question, answer",
            )
        answer = _ANSWERS.get(line["answer"].strip().lower())
        if answer is None:
            raise DataError(
                f"the answer {line['answer']!r}", path=file, line=number, expected="yes or no"
            )
        if line["case"] in row_of:
            questions.append(Question(row_of[line["case"]], line["question"], answer))
        else:
            known_elsewhere += 1
    if not questions:
        raise DataError(
            f"none of {known_elsewhere} questions is about a case of the data",
            path=file,
            expected=f"ids such as {', '.join(data.ids[:3])}",
        )
    return questions


def questions_from_findings(data: Cases) -> list[Question]:
    """For every finding of a generated case one question to say yes to and one to say no to.

    What is asked in vain is a finding of another case, of training or validation, so that how often
    a kind or a site is named says nothing of the answer. A case without findings gets one such
    question, one that has all findings none.

    Raises:
        DataError: the data are not generated ones.
    """
    known = [(row, found) for row, found in enumerate(data.findings) if found is not None]
    # Those of test cases are left out, so that training, which has none, asks the same.
    tested = set(data.splits["test"].tolist())
    every = [(f.kind, f.site) for row, found in known if row not in tested for f in found]
    if len(set(every)) < 2:
        raise DataError(
            "no findings to ask for: these are no generated data",
            fix="give task.questions=FILE.csv with the columns case, question, answer",
        )
    questions = []
    for row, found in known:
        # Drawn from the id of the case, so that the same cases are asked the same.
        chance = np.random.default_rng(int(sha256(data.ids[row].encode()).hexdigest()[:8], 16))
        own = [(f.kind, f.site) for f in found]
        others = [one for one in every if one not in own]
        for present in own:
            questions.append(_asked(chance, row, *present, True))
        for _ in range(max(len(own), 1) if others else 0):
            absent = others[int(chance.integers(len(others)))]
            questions.append(_asked(chance, row, *absent, False))
    return questions


def _asked(chance: np.random.Generator, row: int, kind: str, site: str, answer: bool) -> Question:
    named = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    text = str(chance.choice(_ASKED)).format(kind=named, site=site)
    return Question(row, text, answer)
