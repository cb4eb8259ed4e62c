"""One module a figure of the paper or of the study: each reads tidy tables and returns a figure, nothing else."""
