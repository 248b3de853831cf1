"""What a call costs through discovery, over the same call through gRPC's own static list."""

from collections.abc import Iterator

from ..peers import servers
from ..report import Row, estimate, row
from .layers import discovered, every_layer, listed
from .paired import STYLES, Style, compare

SYNC, AIO = Style(False, 1), Style(True, 16)
"""The styles in which layers are switched off: a call costs the most in the one, where gRPC waits for every answer, and the least in
the other."""


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
    """Where the difference comes from: percent of a call's CPU that each layer takes."""
    with servers(3) as ports:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        chosen = [(SYNC, layer) for layer in every_layer(addresses)]
        chosen += [(AIO, layer) for layer in every_layer(addresses) if layer.everywhere]
        for style, layer in chosen:
            found = compare(style, layer.present, layer.absent, quick)
            more = [[(ratio - 1) * 100 for ratio in group] for group in found.cpu]
            yield estimate(f"CPU per call, {style.name}: {layer.name}", "%", more)
