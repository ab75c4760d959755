"""Train the demo's pair, about ten minutes on two cores, and write all that ships with it.

    python jobs/train_demo_pair.py [--rollouts] [OUT]

With --rollouts only the rollouts are played again, by the pair that is in OUT (by default the shipped one).
"""

import sys
from pathlib import Path

from demo_pair.make import make_pair, write_rollouts
from demo_pair.train import Recipe

from pa_dist.pairs import SHIPPED

if __name__ == "__main__":
    folders = [argument for argument in sys.argv[1:] if argument != "--rollouts"]
    out = Path(folders[0]) if folders else SHIPPED
    if "--rollouts" in sys.argv:
        write_rollouts(out, Recipe())
    else:
        make_pair(out, Recipe(), print)
