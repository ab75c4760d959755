"""Scores to metrics, group by group: UQ, best-of-N, failure attribution, and their intervals."""
