"""The answers that this project was generated with, as far as they matter at run time."""

PREFIX = "{{ cookiecutter.__prefix }}"
"""What the name of every setting begins with in the environment."""

SERVICE = "{{ cookiecutter.project_slug }}"
"""The project's name in logs and telemetry."""

{% if cookiecutter.discovery == "kubernetes" -%}
TARGET = "kubernetes:///{{ cookiecutter.project_slug }}-server:grpc"
{%- elif cookiecutter.discovery == "dns" -%}
TARGET = "dns-poll:///{{ cookiecutter.project_slug }}-server-headless:50051"
{%- else -%}
TARGET = "etcd:///{{ cookiecutter.project_slug }}-server"
{%- endif %}
"""Where the client finds its servers unless the setting CLIENT__TARGET says otherwise."""

SERVER_NAME = "{{ cookiecutter.project_slug }}-server"
"""The server's Service, and the name in its certificate."""

LIVENESS = "liveness"
"""The name that liveness probes ask the health service for: SERVING as long as the process answers at all."""
