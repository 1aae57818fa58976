"""Metrics, the evaluation of policies and baselines on the same tasks, and figures."""
