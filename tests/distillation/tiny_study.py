"""The small study of this room's tests; `make_study` of conftest.py makes it with its teachers collected."""

from __future__ import annotations

from collections.abc import Callable

from capmismatch.study.study import Study

MakeStudy = Callable[..., Study]
STUDY = """
name = "tiny"
[data]
source = "letters"
split = { train = 260, val = 300, test = 200 }
[[family]]
source = "letters:mlp"
widths = [4, 8]
seeds = 2
[distill]
students = ["mlp5", "mlp6"]
seeds = 3
center = [7]
scale = [3]
recipe = { epochs = 2, batch_size = 50 }
views = { kind = "noise", count = 2, sigma = 1.0 }
[[distill.methods]]
name = "CE"
[[distill.methods]]
name = "KD"
tau = 2
[[distill.methods]]
name = "DKD"
"""  # 30 runs: 2 students x 3 seeds x (CE, and KD and DKD from 2 teachers)
