"""The typed client that others import is `api`, built on `channel`; all else here is the load generator, which can be left out."""
