"""What a call costs through discovery, over the same call through gRPC's own static list."""

from collections.abc import Iterator

from ..peers import servers
from ..report import Row, estimate, row
from .layers import discovered, listed, without
from .paired import STYLES, Style, compare

LAYERS_OF = (Style(False, 1), Style(True, 16))
"""The styles in which layers are switched off: a call costs least in the one and most of it is Python in the other."""


def measure(quick: bool) -> Iterator[Row]:
    """Both ratios in every style."""
    with servers(3) as ports:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        for style in STYLES:
            found = compare(style, discovered(addresses), listed(addresses), quick)
            what = f"discovery / static ipv4: list, {style.name}"
            yield estimate(f"CPU per call, {what}", "ratio", found.cpu, 1.03)
            yield estimate(f"calls per second, {what}", "ratio", found.rate, 0.97, at_least=True)
            yield row(f"CPU per call through discovery, {style.name}", "µs", found.microseconds)


def measure_layers(quick: bool) -> Iterator[Row]:
    """Where the difference comes from; compared with the row without a layer, a difference says something."""
    with servers(3) as ports:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        for style in LAYERS_OF[:1] if quick else LAYERS_OF:
            for what, first, second in without(addresses):
                found = compare(style, first, second, quick)
                more = [[(ratio - 1) * 100 for ratio in group] for group in found.cpu]
                yield estimate(f"CPU per call, {style.name}: {what}", "%", more)
