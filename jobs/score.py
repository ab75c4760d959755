"""`ray job submit -- python jobs/score.py ...`: `pa-dist score` on the cluster it is submitted to."""

import sys

from pa_dist.cli import app, guarded

if __name__ == "__main__":
    guarded(lambda: app(["score", *sys.argv[1:]]))
