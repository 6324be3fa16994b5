"""Yes and no as tools write it."""

from __future__ import annotations

from typing import Any

import pytest

from phidet.data.flags import flag


@pytest.mark.parametrize("value", [0, 0.0, False, None, "", " 0 ", "0.0", "false", "False", "no", "Unspecified"])
def test_no(value: Any) -> None:
    assert flag(value) is False


@pytest.mark.parametrize("value", [1, 1.0, True, 2, "1", "1.0", " true ", "TRUE", "Yes"])
def test_yes(value: Any) -> None:
    assert flag(value) is True


@pytest.mark.parametrize("value", ["maybe", "-", ["0"], {"a": 1}])
def test_neither(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        flag(value)
