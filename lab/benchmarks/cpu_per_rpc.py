"""The client's CPU per call: through discovery, against gRPC's own static list with round_robin, in turns."""

import asyncio
import time
import uuid
from collections.abc import Iterator
from typing import Any

import grpc.aio

import discovery

from .peers import method, servers
from .report import Row, row

ROUNDS, CALLS, LOOPS = 20, 1500, 16
ROUND_ROBIN = [("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')]


async def _cost(channel: Any) -> float:
    call = method(channel)

    async def loop() -> None:
        for _ in range(CALLS // LOOPS):
            await call(b"x", timeout=20)

    before = time.process_time()
    await asyncio.gather(*(loop() for _ in range(LOOPS)))
    return (time.process_time() - before) / (CALLS // LOOPS * LOOPS)


async def _measure() -> list[Row]:
    with servers(3) as ports:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        manual = discovery.Manual(uuid.uuid4().hex)
        manual.set(addresses)
        ours = discovery.aio.insecure_channel(manual.target)
        peer = grpc.aio.insecure_channel(f"ipv4:{','.join(addresses)}", ROUND_ROBIN)
        for channel in (ours, peer):
            await _cost(channel)
        ratios, costs = [], []
        for number in range(ROUNDS):
            pair = {}
            for name, channel in (("ours", ours), ("peer", peer))[:: 1 if number % 2 else -1]:
                pair[name] = await _cost(channel)
            ratios.append(pair["ours"] / pair["peer"])
            costs.append(pair["ours"] * 1e6)
        await ours.close()
        await peer.close()
    return [
        row("client CPU per call, discovery / static ipv4: list", "ratio", ratios, 1.05),
        row("client CPU per call through discovery", "µs", costs),
    ]


def measure() -> Iterator[Row]:
    """The ratio, pair by pair, and the absolute figure beside it."""
    yield from asyncio.run(_measure())
