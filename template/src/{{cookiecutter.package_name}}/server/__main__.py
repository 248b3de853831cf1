"""`python -m {{ cookiecutter.package_name }}.server`: read the settings, serve until SIGTERM or SIGINT."""

from .. import startup  # until the imports below are done, too

# isort: split
import asyncio
import functools
import logging
from contextlib import AsyncExitStack

from .. import telemetry
from ..settings import Settings
from ..settings.command import StartError, run
from . import servicer
from .app import build
from .drain import drain
from .options import registrar

logger = logging.getLogger(__package__)


async def serve(settings: Settings) -> None:
    """Serve until a signal, then drain, then close what the services had opened."""
    telemetry.configure(settings, "server")
    stopping = startup.stopping()
    async with AsyncExitStack() as resources:
        try:
            services = await resources.enter_async_context(servicer.services(settings))
        except Exception as error:
            logger.debug("start failed", exc_info=True)
            raise StartError(f"cannot start: {type(error).__name__}: {error}") from None
        app = await build(settings, services)
        registration = registrar(settings, app.port)
        await app.start()
        logger.info("serving as %s on port %d", settings.server.name, app.port)
        if app.health_port is not None:
            logger.info("health in plaintext on port %d", app.health_port)
        if registration is not None:
            registration.start()
        await stopping.wait()
        deregister = None if registration is None else functools.partial(asyncio.to_thread, registration.close)
        await drain(app, settings.server.drain, deregister)
        await app.close()
    await asyncio.to_thread(telemetry.shutdown)


def main() -> None:
    run("server", "The server. Settings come from the environment and .env.", serve)


if __name__ == "__main__":
    main()
