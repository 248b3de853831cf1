"""The service: `servicer` is the business code, `assembly` puts everything around it, `drain` ends it."""
