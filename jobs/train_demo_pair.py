"""`python jobs/train_demo_pair.py [OUT]`: train the demo's pair and write all that ships with it."""

import sys
from pathlib import Path

from pa_dist.demo.agreement import SHIPPED
from pa_dist.demo.make import make_pair
from pa_dist.demo.train import Recipe

if __name__ == "__main__":
    make_pair(Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED, Recipe(), print)
