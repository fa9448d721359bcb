"""Small networks that serve as teachers and students, by name, so that published CIFAR checkpoints load without code.

========================== ===================================================== =======================================
names                      what                                                  source
========================== ===================================================== =======================================
``mlp48``, ``mlp48x48``    hidden layers of the given widths (`in_features=`)
``cifar_resnet20``         depth 6n+2, widths 16/32/64, weightless shortcuts     He et al., arXiv 1512.03385
``cifar_resnet20_stem64``  the same with a 64-wide stem and conv shortcuts
``resnet8x4``              depth 6n+2, widened, conv shortcuts                   Tian et al., arXiv 1910.10699
``wrn-40-2``               WideResNet, depth 6n+4                                Zagoruyko & Komodakis, arXiv 1605.07146
``resnext29_8x64d``        depth 9n+2, groups x width                            Xie et al., arXiv 1611.05431
``vgg8`` ... ``vgg19``     with batch norm and one linear layer                  Simonyan & Zisserman, arXiv 1409.1556
``mobilenetv2``            width 0.5 by default                                  Sandler et al., arXiv 1801.04381
``shufflenetv1``, ``v2``   3 groups; x1                                          arXiv 1707.01083, 1807.11164
``gru16``, ``gru256``      language models of one recurrent layer                Cho et al., arXiv 1406.1078
========================== ===================================================== =======================================

The numbers in a name are free where the architecture allows them (``wrn-28-10``, ``mlp100x50x25``); `names` lists the
usual ones. Parameter names are those of the public checkpoints of each architecture.
"""

from __future__ import annotations

from capmismatch.architectures import (  # noqa: F401 - each import registers its names
    cifar_resnet,
    gru,
    mlp,
    mobilenet,
    resnext,
    shufflenet,
    vgg,
    wide_resnet,
    widened_resnet,
)
from capmismatch.architectures.counting import count_macs, count_parameters
from capmismatch.architectures.registry import build, build_for, names, register

__all__ = ["build", "build_for", "count_macs", "count_parameters", "names", "register"]
