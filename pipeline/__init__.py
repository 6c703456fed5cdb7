"""The pipeline: stages, methods and the store; knows nothing of SLURM, command lines or partitions."""
