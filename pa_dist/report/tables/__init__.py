"""What the page shows of `metrics` and `comparisons`, and the same as CSV."""
