"""A gRPC service: `server` serves it, `client` has the typed client and the load generator."""
