"""A reader a format, and what they share: files in, trajectories and rejects out."""
