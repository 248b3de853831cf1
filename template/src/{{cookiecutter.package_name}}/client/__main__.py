"""`python -m <package>.client`: load the settings, call until told to stop."""

from .. import startup  # noqa: F401  # until the imports below are done

# isort: split
import argparse
import asyncio
import contextlib
import logging
import signal
import sys

from discovery import DiscoveryError

from ..settings import Settings
from ..settings_command import load, print_settings
from ..telemetry import configure
from ..tls import TlsError
from .api import GreeterClient
from .load_generator import Loop
from .readiness import PortError, Readiness

logger = logging.getLogger(__name__)


async def call(settings: Settings) -> None:
    """Call until a signal, then let the calls under way end."""
    telemetry = configure(settings, "client")
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with GreeterClient.connect(settings, telemetry.client_interceptors) as greeter:
        readiness = Readiness(settings)
        await readiness.start()
        logger.info("calling %s at %g a second; health on port %d", settings.client.target, settings.client.rate, readiness.port)
        watching = asyncio.create_task(readiness.watch(greeter))
        await Loop(greeter, settings.client).run(stopping)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await readiness.stop()
    await asyncio.to_thread(telemetry.shutdown)


def main() -> None:
    """Status 0 after a signal, 1 where the health port cannot be had, 2 for settings that cannot work."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}", description="The client. Settings come from the environment and .env."
    )
    parser.add_argument("--print-settings", action="store_true", help="show the settings in force, and end")
    arguments = parser.parse_args()
    settings = load()
    if arguments.print_settings:
        return print_settings(settings)
    try:
        asyncio.run(call(settings))
    except DiscoveryError as error:
        print(f"settings: CLIENT__TARGET={settings.client.target} cannot be used: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except TlsError as error:
        print(f"settings: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except PortError as error:
        print(f"client: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
