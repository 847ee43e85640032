"""One module or package for each outside system. Drivers are imported here and nowhere else."""
