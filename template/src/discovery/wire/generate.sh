#!/bin/sh
# Generates the Python of every proto beside this file, with tools in a throw-away environment: `sh generate.sh`.
# The compiler is old on purpose: what it writes is read by every protobuf runtime from 4.21 on (README.md, What to install).
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/compiler"
"$work/compiler/bin/pip" install --quiet --disable-pip-version-check 'grpcio-tools==1.49.1' 'protobuf<5' 'setuptools<81'
"${PYTHON:-python3}" -m venv "$work/stubs"
"$work/stubs/bin/pip" install --quiet --disable-pip-version-check 'mypy-protobuf==5.1.0'
# A proto is known to protobuf's process-wide pool by its path, so the path carries our name.
mkdir -p "$work/tree/discovery/wire"
cp ./*.proto "$work/tree/discovery/wire"
"$work/compiler/bin/python" -m grpc_tools.protoc -I "$work/tree" --python_out="$work/tree" \
  --plugin=protoc-gen-mypy="$work/stubs/bin/protoc-gen-mypy" --mypy_out=quiet:"$work/tree" "$work"/tree/discovery/wire/*.proto
cp "$work"/tree/discovery/wire/*_pb2.py "$work"/tree/discovery/wire/*_pb2.pyi .
