"""Which numbers of a calibration error are equal up to rounding, the same in compiled loops and tensor operations.

Equal probabilities differ in their last digits where they are made in different ways: that of the target and those of
wrong classes, in vectors or one by one. Probabilities of real networks hardly ever lie so near to each other.
"""

from __future__ import annotations

TIE = 1 << 14  # doubles that are no more floats apart tie: 2e-12 to 4e-12 of themselves
TIE_OF_SINGLES = 16  # the same of floats of 32 bits: 1e-6 to 2e-6 of themselves
CALIBRATED = 1e-12  # an example: a range whose mean probability is this near to its frequency has no sign
