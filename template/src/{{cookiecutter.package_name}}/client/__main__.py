"""`python -m {{ cookiecutter.package_name }}.client`: the load generator. Reads the settings, calls until SIGTERM or SIGINT."""

from .. import startup  # until the imports below are done, too

# isort: split
import asyncio
import functools
import logging
from typing import Any

from .. import telemetry
from ..defaults import PREFIX
from ..discovery import explain_tls
from ..settings import Settings
from ..settings.command import run
from ..tls import client_files
from .api import {{ cookiecutter.__service }}Client
from .channel import Retry
from .load_generator import LoadGenerator
from .readiness import readiness

logger = logging.getLogger(__package__)


def connection(settings: Settings) -> dict[str, Any]:
    """A typed client's arguments. Raises discovery.TargetError, tls.TlsError."""
    client = settings.client
    keepalive = {f"grpc.keepalive_{name}_ms": round(seconds * 1000) for name, seconds in client.keepalive}
    return {
        "target": client.target,
        "tls": client_files(settings),
        "server_name": settings.tls.server_name,
        "timeout": client.timeout,
        "stream_timeout": client.stream_timeout,
        "retry": Retry(attempts=client.retry.attempts),
        "outlier_detection": client.outlier_detection,
        "config": settings.discovery.config(),
        "options": [*keepalive.items(), *settings.grpc_options.items()],
    }


async def call(settings: Settings) -> None:
    """Call until a signal, then let the calls in flight end; a second signal ends the process at once."""
    telemetry.configure(settings, "client")
    stopping = startup.stopping()
    arguments = connection(settings)
    explain = functools.partial(
        explain_tls,
        files=arguments["tls"],
        server_name=settings.tls.server_name,
        setting=lambda part: f"{PREFIX}TLS__{part.upper()}",
    )
    client = {{ cookiecutter.__service }}Client(**arguments)
    async with client, readiness(settings.client, client.channel) as port:
        logger.info("calling %s at %g a second; health on port %d", settings.client.target, settings.client.rate, port)
        await LoadGenerator(client.sample, settings.client.rate, explain).run(stopping)
    await asyncio.to_thread(telemetry.shutdown)


def main() -> None:
    run("client", "The load generator. Settings come from the environment and .env.", call)


if __name__ == "__main__":
    main()
