"""Comparing representations: pure functions on tensors, on whatever device the tensors are."""
