"""Where truth and recovery meet, and nowhere else."""
