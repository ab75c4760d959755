"""Measurements for README and issues: nobody installs them. `jobs/benchmark.py` runs them."""
