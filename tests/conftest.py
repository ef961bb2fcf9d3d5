"""Options that every test folder shares."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens",
        type=Path,
        default=Path(__file__).parent / "goldens",
        metavar="DIR",
        help="folder of reference cases, DIR/<slug>/<case>.json + .npz (default: tests/goldens)",
    )
