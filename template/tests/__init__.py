"""The project's tests: the service itself, its settings, its life as a process, its manifests."""
