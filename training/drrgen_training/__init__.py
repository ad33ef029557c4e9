"""Training and evaluation of a radiograph encoder; reads the manifest and nothing else."""
