"""How the shipped pair was made. `jobs/train_demo_pair.py` runs it."""
