"""The answers that this project was generated with, where deploying needs them."""

SLUG = "{{ cookiecutter.project_slug }}"
"""Begins every name in the cluster, and is the label app.kubernetes.io/part-of."""

DESCRIPTION = "{{ cookiecutter.description | replace('\\', '\\\\') | replace('"', '\\"') }}"  # fmt: skip

IMAGE = "{{ cookiecutter.image_registry }}/{{ cookiecutter.project_slug }}"
"""The image's name without its tag, as base/ has it."""

DISCOVERY = "{{ cookiecutter.discovery }}"
"""The mode unless another is chosen."""
