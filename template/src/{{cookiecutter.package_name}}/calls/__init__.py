"""What wraps every call: the concurrency limit, authorization, telemetry, deadline propagation."""
