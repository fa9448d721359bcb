"""Sums over classes, twice: compiled loops on the CPU, tensor operations on any other device.

=================================  ==========================  ===================  =====================
subject                            entry                       compiled loops       tensor operations
=================================  ==========================  ===================  =====================
softmax, its sums and moments      `softmax`                   `softmax_loops`      `softmax`
mean soft labels of classes        `class_means`               `softmax_loops`      `class_means`
sums near one temperature          `rate_series`               `series_loops`       `rate_series`
adaptive calibration error         `probes/calibration.py`     `adaptive_loops`     `probes/calibration.py`
order of classes (tau-b, rho)      `rank_blocks`               `rank_loops`         `rank_tensors`
the same, of 64 to 1023 classes    `rank_blocks`               `rank_flat`          `rank_tensors`
temperatures of ISATS              `isats_search`              `isats_loops`        `isats_tensors`
condensing rows of a vocabulary    `condensing`                `condense_loops`     `condensing`
=================================  ==========================  ===================  =====================

`devices` decides which of the two works, `threads` runs the loops side by side. Beside them stand `arrays` (input that
users hand in), `soft_label_spec` (how soft labels are made; no torch) and `isats_problem` (the function that ISATS
maximises, and its tolerances). Condensed rows are small: what is read of them (`condensed`, `isats_condensed`) is
tensor operations on every device; `token_columns` draws the tokens at which all teachers are compared.

Letters that formulas and loops share:

=============  ======================================================================================================
letter         meaning
=============  ======================================================================================================
N, n           rows (examples); n in a block of them
C, K           classes; K = C - 1 wrong ones
T, G, P        temperatures (teachers, where ranks are compared); classes in a group; pairs of teachers
f, y           logits of a row, and its label
m              largest wrong logit of a row; in sums against class means, the mean soft label of the row's class
b              "below": wrong logits in the order of their classes, less the largest; b <= 0, and one of them is 0
beta, rate     inverse temperature of the wrong classes, 1 / tau
e, bits        exp(beta b), and the same 64 bits seen as integers
x              e - 1, to its last digits
a              f_y / tau_target
p, p_y         soft label, and the target's probability
q~             softmax over the wrong classes alone, e / sum e
=============  ======================================================================================================

`isats_problem` adds G, A, L and D of the search, `rank_blocks` the order, spans and counts behind tau-b.
"""
