"""Every setting of server and load generator: environment, `.env` and mounted files in, one checked, immutable value out.

A name is the prefix and the path through the sections, in capitals, joined by two underscores:
{{ cookiecutter.__prefix }}SERVER__DRAIN__WAIT. The prefix keeps other programs' variables out, those that Kubernetes sets for every Service included.
Both programs read all sections, because some rules are about both sides of a connection.
"""

from .sections import Client, Discovery, Drain, Log, Section, Server, Tls
from .sources import Settings, SettingsError

__all__ = ["Client", "Discovery", "Drain", "Log", "Section", "Server", "Settings", "SettingsError", "Tls"]
