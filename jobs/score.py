"""`ray job submit -- python jobs/score.py ...`: `pa-dist score` on the cluster it is submitted to."""

from pa_dist.cli import main

if __name__ == "__main__":
    main("score")
