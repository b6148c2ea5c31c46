"""Limits of the networks that the data have to keep."""

SMALLEST_INPUT = 32  # px of a side: U-Nets and discriminators halve it five times; DeepLab takes less
