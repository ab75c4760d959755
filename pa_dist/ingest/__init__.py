"""Files of several formats into the `trajectories` table; what cannot be used into `rejects`."""
