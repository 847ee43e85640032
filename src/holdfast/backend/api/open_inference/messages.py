"""The messages of grpc_service.proto, from its compiled form beside it.

Read at run time instead of generated as code: generated code asks for a protobuf at least as new as its compiler, and
would claim the package `inference` for itself in a process that has another client of the protocol.
"""

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["SERVICE", "descriptors", "message", "methods"]

SERVICE = "inference.GRPCInferenceService"


@cache
def descriptors() -> descriptor_pool.DescriptorPool:
    """The compiled file, in a pool of its own."""
    compiled = files("holdfast.backend.api.open_inference").joinpath("grpc_service.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled).file:
        pool.Add(file)
    return pool


@cache
def message(name: str) -> Any:
    """The class of the message of that name in the package."""
    return message_factory.GetMessageClass(descriptors().FindMessageTypeByName(f"inference.{name}"))


def methods() -> list[tuple[str, Any, Any]]:
    """Of each method of the service its name and the classes of its request and its answer."""
    service = descriptors().FindServiceByName(SERVICE)
    return [(one.name, message(one.input_type.name), message(one.output_type.name)) for one in service.methods]
