"""Demo, experiment, faults, benchmarks and fuzzing: what proves or shows something, on any generated project.

A project is used by its commands, environment variables, gRPC and JSON logs only; nothing here imports its package.
"""
