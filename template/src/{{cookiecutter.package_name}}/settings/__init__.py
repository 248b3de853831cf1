"""Every setting of both programs: environment, `.env`, and mounted files in, one validated, immutable value out.

A name is the prefix and the path through the sections: {{ cookiecutter.__prefix }}SERVER__DRAIN__WAIT is `Settings.server.drain.wait`.
"""

from .sections import Client, Discovery, Drain, Log, Section, Server, Tls
from .sources import Settings, SettingsError

__all__ = ["Client", "Discovery", "Drain", "Log", "Section", "Server", "Settings", "SettingsError", "Tls"]
