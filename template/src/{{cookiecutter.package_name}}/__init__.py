"""A pair of gRPC services: `server` answers, `client` asks; `settings` says how, `telemetry` what they tell of themselves."""
