"""Scoring with one model: token sequences in, columns of numbers out. Of ours it knows nothing but itself."""
