"""Errors with details (google.rpc.Status, https://google.aip.dev/193), which the typed client turns into exceptions."""

from collections.abc import Mapping
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status


async def invalid_argument(context: grpc.aio.ServicerContext[Any, Any], fields: Mapping[str, str]) -> NoReturn:
    """End the call with INVALID_ARGUMENT. fields: what is wrong, by the path of the field, as in google.rpc.BadRequest."""
    details = Packed()
    details.Pack(
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=field, description=text) for field, text in fields.items()
            ]
        )
    )
    message = "; ".join(f"{field}: {text}" for field, text in fields.items())
    status = rpc_status.to_status(status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=message, details=[details]))
    await context.abort(status.code, status.details, status.trailing_metadata)
