"""The answers that this project was generated with, as far as they matter at runtime."""

PREFIX = "{{ cookiecutter.__prefix }}"
"""The prefix of every setting's name in the environment."""

SERVICE = "{{ cookiecutter.project_slug }}"
"""The project's name in logs and telemetry."""

{% if cookiecutter.discovery == "kubernetes" -%}
TARGET = "kubernetes:///{{ cookiecutter.project_slug }}-server:grpc"
{%- elif cookiecutter.discovery == "dns" -%}
TARGET = "dns-poll:///{{ cookiecutter.project_slug }}-server-headless:50051"
{%- else -%}
TARGET = "etcd:///{{ cookiecutter.project_slug }}-server"
{%- endif %}
"""The default of the setting CLIENT__TARGET."""

SERVER_NAME = "{{ cookiecutter.project_slug }}-server"
"""The server's Service, and the name in its certificate."""

LIVENESS = "liveness"
"""The name in the health service for liveness probes: SERVING as long as the process answers at all."""
