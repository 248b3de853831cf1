"""`python -m {{ cookiecutter.package_name }}.server`: read the settings, serve until SIGTERM or SIGINT."""

from .. import startup  # noqa: F401  # until the imports below are done

# isort: split
import argparse
import asyncio
import functools
import logging
import sys
from contextlib import AsyncExitStack

from ..discovery import TargetError
from ..settings import Settings
from ..settings.command import load, print_settings, qualified
from ..telemetry import configure
from ..tls import TlsError
from . import servicer
from .app import PortError, build
from .drain import Signals, drain
from .options import registrar

logger = logging.getLogger(__name__)


class StartError(Exception):
    """What the services need cannot be opened; the text is the reason."""


async def serve(settings: Settings) -> None:
    """Serve until a signal, then drain, then close what the services had opened."""
    telemetry = configure(settings, "server")
    signals = Signals()
    async with AsyncExitStack() as resources:
        try:
            services = await resources.enter_async_context(servicer.services(settings))
        except Exception as error:
            logger.debug("start failed", exc_info=True)
            raise StartError(f"{type(error).__name__}: {error}") from None
        app = await build(settings, telemetry, services)
        registration = registrar(settings, app.port)
        await app.start()
        logger.info("serving as %s on port %d", settings.server.name, app.port)
        if app.health_port is not None:
            logger.info("health in plaintext on port %d", app.health_port)
        if registration is not None:
            registration.start()
        await signals.first.wait()
        deregister = None if registration is None else functools.partial(asyncio.to_thread, registration.close)
        await drain(app, settings.server.drain, signals.second, deregister)
        await app.close()
    await asyncio.to_thread(telemetry.shutdown)


def main() -> None:
    """Exit status 0 after a drain, 1 if the server cannot start, 2 for settings that cannot be used."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}", description="The server. Settings come from the environment and .env."
    )
    parser.add_argument("--print-settings", action="store_true", help="print the settings in force, and exit")
    arguments = parser.parse_args()
    settings = load()
    if arguments.print_settings:
        return print_settings(settings)
    try:
        asyncio.run(serve(settings))
    except (TargetError, TlsError) as error:
        print(f"settings: {qualified(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except PortError as error:
        print(f"server: {qualified(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    except StartError as error:
        print(f"server: cannot start: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
