"""`ray job submit -- python jobs/run.py CONFIG ...`: the whole job on the cluster it is submitted to."""

import sys

from pa_dist.cli import app, guarded

if __name__ == "__main__":
    guarded(lambda: app(["run", *sys.argv[1:]]))
