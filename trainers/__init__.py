"""Training: the schema of a run, data, models, the loop, evaluation, checkpoints and metrics."""
