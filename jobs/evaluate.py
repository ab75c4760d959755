"""`ray job submit -- python jobs/evaluate.py ...`: `pa-dist evaluate` on the cluster it is submitted to."""

from pa_dist.cli import main

if __name__ == "__main__":
    main("evaluate")
