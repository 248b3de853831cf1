"""Run by cookiecutter; importable, so that tests can call them."""
