"""Train the demo's pair, about ten minutes on two cores, and write all that ships with it.

    python jobs/train_demo_pair.py [--rollouts] [OUT]

With --rollouts only the rollouts are played again, by the pair that is in OUT (by default the shipped one).
"""

import argparse
from pathlib import Path

from demo_pair.make import make_pair, write_rollouts
from demo_pair.train import Recipe

from pa_dist.pairs import SHIPPED

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=SHIPPED, help="where the pair is, or goes")
    parser.add_argument("--rollouts", action="store_true", help="write the rollouts of a pair that is there")
    chosen = parser.parse_args()
    if chosen.rollouts:
        write_rollouts(chosen.folder, Recipe())
    else:
        make_pair(chosen.folder, Recipe(), print)
