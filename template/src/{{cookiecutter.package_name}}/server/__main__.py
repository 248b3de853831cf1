"""`python -m <package>.server`: load the settings, serve until told to stop."""

from .. import startup  # noqa: F401  # until the imports below are done

# isort: split
import argparse
import asyncio
import functools
import logging
import sys

from discovery import TargetError

from .. import options
from ..settings import Settings
from ..settings_command import load, print_settings
from ..telemetry import configure
from ..tls import TlsError
from .app import PortError, assemble
from .drain import Signals, drain

logger = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Serve until a signal, then drain."""
    telemetry = configure(settings, "server")
    signals = Signals()
    assembled = await assemble(settings, telemetry)
    registrar = options.registrar(settings, assembled.port)
    await assembled.start()
    logger.info("serving as %s on port %d", settings.server.name, assembled.port)
    if assembled.health_port is not None:
        logger.info("health in plaintext on %d", assembled.health_port)
    if registrar is not None:
        registrar.start()
    await signals.first.wait()
    deregister = None if registrar is None else functools.partial(asyncio.to_thread, registrar.close)
    await drain(assembled, settings.server.drain, signals.second, deregister)
    await assembled.close()
    await asyncio.to_thread(telemetry.shutdown)


def main() -> None:
    """Status 0 after a drain, 1 where the port cannot be had, 2 for settings that cannot work."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}", description="The server. Settings come from the environment and .env."
    )
    parser.add_argument("--print-settings", action="store_true", help="show the settings in force, and end")
    arguments = parser.parse_args()
    settings = load()
    if arguments.print_settings:
        return print_settings(settings)
    try:
        asyncio.run(serve(settings))
    except (TargetError, TlsError) as error:
        print(f"settings: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except PortError as error:
        print(f"server: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
