"""Cleaning of the SEM pictures that a network is pre-trained on (paper Section 2.3)."""
