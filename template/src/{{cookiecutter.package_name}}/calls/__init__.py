"""What every call passes on its way in: the concurrency limit, authorization, telemetry, the deadline for calls that it makes."""
