"""Limits of the networks that the data have to keep, and the number in a mask that all of them know."""

SMALLEST_INPUT = 32  # px of a side: U-Nets and discriminators halve it five times; DeepLab takes less
IGNORED = 255  # in a mask: a pixel that counts nowhere
