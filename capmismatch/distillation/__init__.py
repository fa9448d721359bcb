"""Students: methods, remedies, the grid of runs, results, soft-label files, trackers."""
