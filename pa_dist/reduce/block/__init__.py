"""A block of log-probs to its steps, scores and blamed steps: the methods, their aggregations and predictors."""
