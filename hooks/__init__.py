"""Run by cookiecutter around a bake; importable, so that tests can call them."""
