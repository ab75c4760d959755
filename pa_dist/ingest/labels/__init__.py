"""Labels that came later, joined to the trajectories of a run."""
