"""The generated pair's behavior: a project is baked with the default answers and used as its users do, by its commands, settings, calls and logs."""
