"""Every exception that this library raises.

DiscoveryError
├── TargetError          an invalid target, option, or setting (also a ValueError)
│   └── CertificateError a TLS file that cannot be used
├── SourceError          a registry cannot be read at the moment
├── RegistrationError    a registry cannot be written at the moment
├── NotSyncedError       no first snapshot within the timeout (also a TimeoutError)
└── ControlPlaneError    the in-process control plane cannot be used: bootstrap, socket, threads, fork (also a RuntimeError)
"""

import contextlib
from collections.abc import Callable


def printable(text: str) -> str:
    """Text from outside, such as a registry's, safe for logs and terminals: control characters are escaped."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def report(log: Callable[..., None], message: str, *values: object) -> None:
    """Log a message; a log handler that raises must not end the thread that has something to say."""
    with contextlib.suppress(Exception):
        log(message, *values)


class DiscoveryError(Exception):
    """Base of all errors of discovery; its text is one printable sentence that names the fact and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class TargetError(DiscoveryError, ValueError):
    """An invalid target, option, or setting, found before anything was started."""


class CertificateError(TargetError):
    """A TLS file that cannot be used: `name` is the argument of CertificateFiles, `path` its value, `reason` the rest."""

    def __init__(self, name: str, path: str, reason: str) -> None:
        super().__init__(f"CertificateFiles({name}='{path}') {reason}")
        self.name = name
        self.path = path
        self.reason = reason


class SourceError(DiscoveryError):
    """A registry cannot be read at the moment; the resolver keeps the last set and tries again.

    `retry_after` is the minimum time in seconds until the next attempt. None leaves it to the backoff.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RegistrationError(DiscoveryError):
    """A registry cannot be written at the moment."""


class NotSyncedError(DiscoveryError, TimeoutError):
    """The first snapshot of a target did not arrive within the timeout."""


class ControlPlaneError(DiscoveryError, RuntimeError):
    """The in-process control plane cannot be used: its socket, the xDS bootstrap, the system's threads, or a fork."""
