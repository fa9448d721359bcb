from __future__ import annotations

import re

import pytest

from capmismatch.errors import InputError
from capmismatch.findings import FINDINGS, explain, join_codes, without_muted


def test_codes_are_in_order_and_say_something():
    assert list(FINDINGS) == sorted(FINDINGS)
    assert all(re.fullmatch(r"CM\d{3}", code) for code in FINDINGS)
    for code, finding in FINDINGS.items():
        assert finding.code == code
        assert finding.title and not finding.title.endswith(".")
        assert finding.explanation.endswith(".")
        assert str(finding).startswith(f"{code} {finding.title}: ")


def test_explain():
    assert explain("CM003").title == "too few teachers"


def test_unknown_code_lists_those_there_are():
    with pytest.raises(InputError, match=re.escape("code must be one of ['CM001', 'CM002'")):
        explain("CM999")


def test_mute():
    assert without_muted(["CM004", "CM003", "CM004"]) == ["CM003", "CM004"]
    assert without_muted(["CM004", "CM003"], mute=["CM004"]) == ["CM003"]
    assert without_muted(["CM004", "CM003"], mute="CM004") == ["CM003"]
    assert join_codes(["CM004", "CM003"]) == "CM003,CM004"
    assert join_codes([]) == ""
    with pytest.raises(InputError, match="code must be one of"):
        without_muted([], mute=["CM4"])
