"""Errors with details (google.rpc.Status, https://google.aip.dev/193): an invalid field on the server, an exception in the client."""

import contextlib
from collections.abc import Mapping
from typing import Any, NoReturn

import grpc
import grpc.aio


async def invalid_argument(context: Any, fields: Mapping[str, str]) -> NoReturn:
    """End the call of a handler with INVALID_ARGUMENT. fields: what is wrong, by the path of the field, as in google.rpc.BadRequest."""
    from google.protobuf.any_pb2 import Any as Packed
    from google.rpc import code_pb2, error_details_pb2, status_pb2
    from grpc_status import rpc_status

    request, packed = error_details_pb2.BadRequest(), Packed()
    for field, description in fields.items():
        request.field_violations.add(field=field, description=description)
    packed.Pack(request)
    message = "; ".join(f"{field}: {description}" for field, description in fields.items())
    status = rpc_status.to_status(status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=message, details=[packed]))
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError  # abort raises


class InvalidRequestError(grpc.aio.AioRpcError):
    """INVALID_ARGUMENT with google.rpc.BadRequest details. fields: what is wrong with each field, by its path in the request."""

    def __init__(self, error: grpc.aio.AioRpcError, fields: dict[str, str]) -> None:
        metadata = error.initial_metadata(), error.trailing_metadata()
        super().__init__(error.code(), *metadata, error.details(), error.debug_error_string())
        self.fields = fields


def explain(error: grpc.aio.AioRpcError) -> None:
    """Raise InvalidRequestError for an error with such details; add a note where a connection's age has cut the call."""
    if error.code() is grpc.StatusCode.INVALID_ARGUMENT and (fields := _fields(error)):
        raise InvalidRequestError(error, fields) from error
    if "max connection age" in (error.details() or "").replace("_", " "):
        error.add_note("SERVER__MAX_CONNECTION_AGE and SERVER__MAX_CONNECTION_AGE_GRACE are over: call again")


def _fields(error: grpc.aio.AioRpcError) -> dict[str, str]:
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import BadRequest
    from grpc_status import rpc_status

    fields: dict[str, str] = {}
    with contextlib.suppress(DecodeError, ValueError):  # garbage, or another code than the call's
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            request = BadRequest()
            if detail.Unpack(request):
                fields |= {violation.field: violation.description for violation in request.field_violations}
    return fields
