"""The backbone that ships with the repository: weights, recipe and figures."""
