"""Scheduler for Slurm clusters: submits, watches, requeues and resumes runs as Slurm jobs."""
