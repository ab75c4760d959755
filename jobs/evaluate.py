"""`ray job submit -- python jobs/evaluate.py ...`: `pa-dist evaluate` on the cluster it is submitted to."""

import sys

from pa_dist.cli import app, guarded

if __name__ == "__main__":
    guarded(lambda: app(["evaluate", *sys.argv[1:]]))
