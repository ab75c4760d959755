"""`ray job submit -- python jobs/run.py CONFIG ...`: the whole job on the cluster it is submitted to."""

from pa_dist.cli import main

if __name__ == "__main__":
    main("run")
