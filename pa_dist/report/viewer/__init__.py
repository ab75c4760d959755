"""The trajectories of the page: which it holds, and the data of each."""
