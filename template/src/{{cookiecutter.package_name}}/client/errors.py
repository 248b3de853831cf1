"""What the status of a failed call says beyond its code."""

import contextlib

import grpc
import grpc.aio


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
