"""The Open Inference Protocol (version 2) over HTTP and gRPC.

tensors    values with a name, type and shape, from JSON or raw bytes and back
requests   an inference request, read from an HTTP body
models     what is asked: targets as models, deployments as their versions; knows neither HTTP nor gRPC
http       the routes under /v2
messages   the messages of grpc_service.proto
rpc        the gRPC server
"""
