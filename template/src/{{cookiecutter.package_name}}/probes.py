"""What the pods' probes ask the health service for, beside the overall health."""

LIVENESS = "liveness"
"""Served as long as the process answers at all, while the overall health may say that it takes no calls: only that restarts a pod."""
