"""The methods of a project's service, as its server's reflection lists them: the lab knows no message of theirs."""

import asyncio
import json
from dataclasses import dataclass

from lab.project import Project, last_lines

from .catalog import NotTriedError

# In the project's interpreter, which has the library for reflection.
_PROGRAM = """
import json, sys
import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
with grpc.insecure_channel(sys.argv[1], [("grpc.enable_http_proxy", 0)]) as channel:
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    services = [pool.FindServiceByName(name) for name in database.get_services() if not name.startswith("grpc.")]
    print(json.dumps([
        [f"/{service.full_name}/{method.name}", method.client_streaming, method.server_streaming]
        for service in services for method in service.methods
    ]))
"""


@dataclass(frozen=True)
class Methods:
    """Paths of the first method of each kind. Both take one message, and an empty one is a valid message of any type."""

    unary: str
    stream: str


async def methods(project: Project, authority: str) -> Methods:
    """Those of the server at this address. Raises NotTriedError where it lacks one of them."""
    process = await asyncio.create_subprocess_exec(
        str(project.python), "-c", _PROGRAM, authority, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    if process.returncode:
        raise NotTriedError(f"the server's reflection cannot be read: {last_lines(errors.decode(), 1)}")
    found = json.loads(output)
    unary = [path for path, client_streams, server_streams in found if not client_streams and not server_streams]
    streams = [path for path, client_streams, server_streams in found if not client_streams and server_streams]
    if not unary or not streams:
        raise NotTriedError(
            f"the service has {len(unary)} unary methods and {len(streams)} that answer with a stream; one of each is needed"
        )
    return Methods(unary[0], streams[0])
