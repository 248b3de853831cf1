"""From what a source yields to snapshots that gRPC can use: retries, coalescing, health, fail-over, the cache."""
