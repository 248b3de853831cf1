"""`python -m {{ cookiecutter.package_name }}.client`: the load generator. Reads the settings, calls until SIGTERM or SIGINT."""

from .. import startup  # noqa: F401  # until the imports below are done

# isort: split
import asyncio
import contextlib
import functools
import logging
import signal
from typing import Any

from ..defaults import PREFIX
from ..discovery import Outliers, explain_tls
from ..settings import Settings
from ..settings.command import run
from ..telemetry import configure
from ..tls import client_files
from .api import {{ cookiecutter.__service }}Client
from .channel import Keepalive, Policy, Retry
from .load_generator import ErrorLog, LoadGenerator
from .readiness import Readiness

logger = logging.getLogger(__name__)


def connection(settings: Settings) -> dict[str, Any]:
    """A typed client's arguments. Raises discovery.TargetError, tls.TlsError."""
    client = settings.client
    outliers = Outliers(min_requests=50) if client.outlier_detection else None
    policy = Policy(
        keepalive=Keepalive(**dict(client.keepalive)),
        retry=Retry(attempts=client.retry.attempts) if client.retry.attempts > 1 else None,
        outliers=outliers,
    )
    return {
        "target": client.target,
        "tls": client_files(settings),
        "server_name": settings.tls.server_name,
        "timeout": client.timeout,
        "stream_timeout": client.stream_timeout,
        "config": settings.discovery.config(health_check=True, outliers=outliers),
        "policy": policy,
        "options": list(settings.grpc_options.items()),
    }


async def call(settings: Settings) -> None:
    """Call until a signal, then let the calls in flight end."""
    telemetry = configure(settings, "client")
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    arguments = {**connection(settings), "interceptors": telemetry.client_interceptors}
    tls, name = arguments["tls"], settings.tls.server_name
    explain = functools.partial(explain_tls, files=tls, server_name=name, setting=lambda part: f"{PREFIX}TLS__{part.upper()}")
    async with {{ cookiecutter.__service }}Client(**arguments) as client:
        readiness = Readiness(settings)
        await readiness.start()
        logger.info("calling %s at %g a second; health on port %d", settings.client.target, settings.client.rate, readiness.port)
        watching = asyncio.create_task(readiness.watch(client.channel))
        await LoadGenerator(client.sample, settings.client, ErrorLog(explain)).run(stopping)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await readiness.stop()
    await asyncio.to_thread(telemetry.shutdown)


def main() -> None:
    run("client", "The load generator. Settings come from the environment and .env.", call)


if __name__ == "__main__":
    main()
