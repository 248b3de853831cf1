"""The answers that this project was generated with, where they matter at run time; settings change them."""

SERVICE = "{{ cookiecutter.project_slug }}"
"""The project's name in logs and telemetry."""

{% if cookiecutter.discovery == "kubernetes" -%}
TARGET = "kubernetes:///{{ cookiecutter.project_slug }}-server:grpc"
{%- elif cookiecutter.discovery == "dns" -%}
TARGET = "dns-poll:///{{ cookiecutter.project_slug }}-server-headless:50051"
{%- else -%}
TARGET = "etcd:///{{ cookiecutter.project_slug }}-server"
{%- endif %}
"""Where the client finds its servers when CLIENT__TARGET is not set."""

SERVER_NAME = "{{ cookiecutter.project_slug }}-server"
"""The server's Service, and the name in its certificate."""
