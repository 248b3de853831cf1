"""Every setting of server and load generator: environment, `.env`, and mounted files in, one validated, immutable value out.

A name is the prefix and the path through the sections, in capitals, joined by two underscores:
{{ cookiecutter.__prefix }}SERVER__DRAIN__WAIT. Both programs read all sections, because some rules concern both sides of a connection.
"""

from .sections import Client, Discovery, Drain, Log, Server, Settings, Tls
from .sources import SettingsError
from .types import Section

__all__ = ["Client", "Discovery", "Drain", "Log", "Section", "Server", "Settings", "SettingsError", "Tls"]
