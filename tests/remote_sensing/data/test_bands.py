"""Names and units of bands."""

import numpy as np
import pytest
import torch

from core.data.checks import DataError
from remote_sensing.data.bands import canonical_band, sorted_bands, to_physical


def test_both_ways_to_write_a_band() -> None:
    assert [canonical_band(n, "optical") for n in ("B1", "b01", "B12", "B8A", "B08A", "B8")] == [
        *("B01", "B01", "B12", "B8A", "B8A", "B08"),
    ]
    assert canonical_band("vv", "radar") == "VV"
    with pytest.raises(DataError, match="B13"):
        canonical_band("B13", "optical")
    with pytest.raises(DataError, match="VV, VH, HH, HV"):
        canonical_band("B1", "radar")


def test_b8a_lies_between_b08_and_b09() -> None:
    names = ["B12", "B9", "B8A", "B8", "B1"]
    assert sorted_bands(names, "optical") == ["B01", "B08", "B8A", "B09", "B12"]
    assert sorted_bands(["VH", "VV"], "radar") == ["VV", "VH"]


def test_digital_numbers_become_reflectance() -> None:
    numbers = torch.tensor([1000, 11000, 15000], dtype=torch.uint16)
    np.testing.assert_allclose(
        to_physical(numbers, "optical", "dn", -1000), [0.0, 1.0, 1.4], atol=1e-7
    )
    np.testing.assert_allclose(to_physical(numbers, "optical", "dn"), [0.1, 1.1, 1.5], rtol=1e-6)


def test_power_and_amplitude_become_the_same_decibels() -> None:
    decibels = torch.tensor([-25.0, -10.0, 0.0])
    power = 10 ** (decibels / 10)
    np.testing.assert_allclose(to_physical(power, "radar", "power"), decibels, atol=1e-4)
    np.testing.assert_allclose(to_physical(power**0.5, "radar", "amplitude"), decibels, atol=1e-4)
    np.testing.assert_array_equal(to_physical(decibels, "radar", "db"), decibels)


def test_power_of_zero_is_no_data() -> None:
    assert to_physical(torch.tensor([0.0, -1.0]), "radar", "power").isnan().all()


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.radar_unit=dn") as refused:
        to_physical(torch.zeros(1), "radar", "dn")
    assert "db, power, amplitude" in str(refused.value)
