"""Explainers: one forward function, one layer, one map per image."""
