"""A small world whose optimal advantage is known exactly, and a policy/reference pair trained in it."""
