"""Your own settings: a field here is {{ cookiecutter.__prefix }}SERVICE__<NAME> in the environment."""

from .sections import Section


class Service(Section):
    """What your service needs: the address of a database, a limit, a feature flag."""
