"""How the project answers predictions."""

from pydantic import Field, field_validator, model_validator

from holdfast.backend.settings.base import Model, PlacedError
from holdfast.core.timeline import parse_duration
from holdfast.errors import ConfigError

__all__ = ["ServingSettings", "TlsSettings"]


class TlsSettings(Model):
    """Files in PEM, relative to the project's folder. With `client_ca`, clients need a certificate that it signed."""

    certificate: str = Field(min_length=1)
    key: str = Field(min_length=1)
    client_ca: str | None = Field(None, min_length=1)


class ServingSettings(Model):
    """Where the prediction server (and the control plane on the next port) listen, and their limits.

    `lazy`: a deployment is opened at its first prediction. `drain`: for so many seconds after SIGTERM predictions go on
    while `/v1/ready` answers 503. With `grpc_port` the Open Inference Protocol is spoken over gRPC too, there.
    """

    host: str = "127.0.0.1"
    port: int = Field(8700, ge=1, le=65534)
    workers: int = Field(1, ge=1, le=256)
    grpc_port: int | None = Field(None, ge=1, le=65535)
    max_body_mb: int = Field(16, ge=1)
    lazy: bool = False
    drain: float = Field(0, ge=0, le=3600)
    access_log: float = Field(0.0, ge=0.0, le=1.0)
    tracing: bool = False
    timeout: str = "60s"
    tls: TlsSettings | None = None

    @field_validator("timeout")
    @classmethod
    def _timeout(cls, value: str) -> str:
        try:
            parse_duration(value)
        except ConfigError as error:
            raise ValueError(f"{error.message}. {error.hint}") from error
        return value

    @property
    def timeout_seconds(self) -> float:
        """How long a prediction, or the body of any request, may take."""
        return parse_duration(self.timeout) / 1_000_000

    @model_validator(mode="after")
    def _ports_differ(self) -> "ServingSettings":
        if self.grpc_port in (self.port, self.port + 1):
            raise PlacedError(("serving", "grpc_port"), f"the port {self.grpc_port} is that of another server here")
        return self
