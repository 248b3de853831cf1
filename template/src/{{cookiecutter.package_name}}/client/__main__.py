"""`python -m {{ cookiecutter.package_name }}.client`: the load generator. Reads the settings, calls until SIGTERM or SIGINT."""

from .. import startup  # noqa: F401  # until the imports below are done

# isort: split
import argparse
import asyncio
import contextlib
import logging
import signal
import sys

from ..discovery import DiscoveryError
from ..settings import Settings
from ..settings.command import load, print_settings, qualified
from ..telemetry import configure
from ..tls import TlsError
from .api import {{ cookiecutter.__service }}Client
from .load_generator import LoadGenerator
from .options import connection
from .readiness import PortError, Readiness

logger = logging.getLogger(__name__)


async def call(settings: Settings) -> None:
    """Call until a signal, then let the calls in flight end."""
    telemetry = configure(settings, "client")
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    arguments = {**connection(settings), "interceptors": telemetry.client_interceptors}
    async with {{ cookiecutter.__service }}Client(**arguments) as client:
        readiness = Readiness(settings)
        await readiness.start()
        logger.info("calling %s at %g a second; health on port %d", settings.client.target, settings.client.rate, readiness.port)
        watching = asyncio.create_task(readiness.watch(client.channel))
        await LoadGenerator(client, settings).run(stopping)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await readiness.stop()
    await asyncio.to_thread(telemetry.shutdown)


def main() -> None:
    """Exit status 0 after a signal, 1 if the health port cannot be opened, 2 for settings that cannot be used."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}", description="The load generator. Settings come from the environment and .env."
    )
    parser.add_argument("--print-settings", action="store_true", help="print the settings in force, and exit")
    arguments = parser.parse_args()
    settings = load()
    if arguments.print_settings:
        return print_settings(settings)
    try:
        asyncio.run(call(settings))
    except DiscoveryError as error:
        print(f"settings: {qualified('CLIENT__TARGET')}={settings.client.target} cannot be used: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except TlsError as error:
        print(f"settings: {qualified(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except PortError as error:
        print(f"client: {qualified(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
