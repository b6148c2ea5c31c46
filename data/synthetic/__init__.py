"""Drawn micrographs: four domains for the demonstration, and pictures for the pre-training."""
