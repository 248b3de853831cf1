"""`api` is the typed client that others import, built on `channel`; everything else is the load generator, which can be deleted."""
