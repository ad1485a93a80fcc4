"""Metrics: pure functions on tensors that return one value per query."""
