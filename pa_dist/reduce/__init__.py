"""The columns to steps, scores and metrics; a model is never seen here."""
