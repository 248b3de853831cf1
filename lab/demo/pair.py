"""The project's own server and client, as the demo uses them; the only file here that knows the package's name."""

from {{ cookiecutter.package_name }}.client.api import GreeterClient
from {{ cookiecutter.package_name }}.client.load_generator import Loop, Result
from {{ cookiecutter.package_name }}.settings import Settings
from {{ cookiecutter.package_name }}.settings_command import sentences

SERVER_MODULE = "{{ cookiecutter.package_name }}.server"

__all__ = ["SERVER_MODULE", "GreeterClient", "Loop", "Result", "Settings", "sentences"]
