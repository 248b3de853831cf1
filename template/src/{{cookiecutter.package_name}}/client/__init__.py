"""The caller: `api` is the typed client that others import, `loop` a service that uses it."""
