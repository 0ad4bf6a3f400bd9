"""Assumption table of the planner: how teachers on small shards of public benchmarks vote.

Source: `scripts/bench shards` (docs/results/shards/*.json): up to 256 of the n teachers
(`scatter-linear`, affine augmentation), plurality checked on 2,000 holdout rows of the benchmark,
vote shares on 2,000 synthetic images of the default mix, in ten equal groups from the least to the
most decided. Never figures of a user's teachers.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ShardFigures:
    """What is assumed of teachers with so many records each."""

    rows_per_class: float
    """Records of a teacher divided by the number of classes."""
    right: float
    """Rate of real images on which most teachers name the true class."""
    first: tuple[float, ...]
    """Share of the votes of the class that leads, in ten groups of synthetic images."""
    second: tuple[float, ...]
    """Share of the class that follows, in the same groups."""


STAND_IN_CLASSES = 10
MNIST = (
    ShardFigures(  # 8,000 teachers
        0.675, 0.9295,
        (0.189, 0.199, 0.202, 0.213, 0.229, 0.239, 0.258, 0.279, 0.312, 0.391),
        (0.185, 0.184, 0.177, 0.176, 0.179, 0.171, 0.17, 0.163, 0.157, 0.141),
    ),
    ShardFigures(  # 4,000 teachers
        1.35, 0.9535,
        (0.23, 0.246, 0.26, 0.274, 0.295, 0.319, 0.343, 0.386, 0.449, 0.576),
        (0.222, 0.22, 0.212, 0.205, 0.202, 0.197, 0.184, 0.176, 0.161, 0.126),
    ),
    ShardFigures(  # 2,000 teachers
        2.7, 0.9685,
        (0.265, 0.279, 0.295, 0.308, 0.332, 0.362, 0.397, 0.447, 0.53, 0.735),
        (0.253, 0.246, 0.24, 0.227, 0.222, 0.215, 0.204, 0.191, 0.165, 0.101),
    ),
    ShardFigures(  # 1,000 teachers
        5.4, 0.978,
        (0.295, 0.313, 0.333, 0.367, 0.391, 0.426, 0.481, 0.535, 0.636, 0.853),
        (0.283, 0.273, 0.261, 0.259, 0.243, 0.226, 0.217, 0.189, 0.152, 0.068),
    ),
    ShardFigures(  # 500 teachers
        10.8, 0.9815,
        (0.318, 0.349, 0.382, 0.418, 0.465, 0.509, 0.564, 0.639, 0.733, 0.917),
        (0.302, 0.292, 0.285, 0.27, 0.252, 0.227, 0.206, 0.185, 0.13, 0.043),
    ),
    ShardFigures(  # 250 teachers
        21.6, 0.983,
        (0.349, 0.392, 0.426, 0.485, 0.538, 0.596, 0.664, 0.731, 0.826, 0.959),
        (0.328, 0.32, 0.29, 0.282, 0.256, 0.223, 0.188, 0.145, 0.094, 0.024),
    ),
)  # fmt: skip
FASHION_MNIST = (
    ShardFigures(  # 8,000 teachers
        0.675, 0.685,
        (0.217, 0.227, 0.242, 0.252, 0.264, 0.271, 0.287, 0.309, 0.335, 0.4),
        (0.212, 0.211, 0.213, 0.212, 0.211, 0.205, 0.205, 0.205, 0.199, 0.199),
    ),
    ShardFigures(  # 4,000 teachers
        1.35, 0.76,
        (0.241, 0.253, 0.268, 0.279, 0.292, 0.305, 0.334, 0.372, 0.424, 0.506),
        (0.233, 0.232, 0.232, 0.226, 0.22, 0.209, 0.208, 0.207, 0.2, 0.181),
    ),
    ShardFigures(  # 2,000 teachers
        2.7, 0.791,
        (0.259, 0.274, 0.294, 0.312, 0.326, 0.356, 0.388, 0.436, 0.496, 0.602),
        (0.248, 0.242, 0.239, 0.232, 0.219, 0.218, 0.21, 0.205, 0.179, 0.139),
    ),
    ShardFigures(  # 1,000 teachers
        5.4, 0.825,
        (0.272, 0.291, 0.31, 0.339, 0.366, 0.398, 0.442, 0.507, 0.588, 0.74),
        (0.259, 0.25, 0.24, 0.233, 0.225, 0.216, 0.205, 0.188, 0.16, 0.101),
    ),
    ShardFigures(  # 500 teachers
        10.8, 0.8365,
        (0.289, 0.31, 0.338, 0.371, 0.405, 0.453, 0.512, 0.595, 0.696, 0.864),
        (0.277, 0.263, 0.252, 0.246, 0.233, 0.22, 0.2, 0.181, 0.13, 0.061),
    ),
    ShardFigures(  # 250 teachers
        21.6, 0.858,
        (0.313, 0.324, 0.363, 0.395, 0.441, 0.488, 0.577, 0.652, 0.771, 0.927),
        (0.295, 0.27, 0.268, 0.253, 0.242, 0.215, 0.2, 0.152, 0.108, 0.038),
    ),
)  # fmt: skip
STAND_INS = {"mnist": MNIST, "fashion_mnist": FASHION_MNIST}
