"""What surrounds a call. On a server, by one wrapper (`handler`): authorization, limits, telemetry, the error guard. In a client: retries.
On both: telemetry, deadlines, details of errors. Needs OpenTelemetry's API; details need grpcio-status."""
