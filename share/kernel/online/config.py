"""What can be set of the online service."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from share.kernel.config import Choice, ConfigModel, choice
from share.kernel.online.alerts import AlertsConfig
from share.kernel.online.listening import bound
from share.kernel.online.premises import check_directory
from share.kernel.policy.loading import PolicyConfig, device_of
from share.kernel.report.trackers import Trackers
from share.kernel.serving.admission import AdmissionConfig
from share.kernel.serving.batching import BatchingConfig
from share.kernel.serving.engine_config import EngineConfig
from share.kernel.serving.update_config import ZOOM_IN, UpdateConfig
from share.kernel.transport.config import TransportConfig

DIRECTORY = "online"
"""The directory where none is set: below the working directory, or of a demo below its run's."""


class OnlineConfig(ConfigModel):
    """A service that answers questions about images over HTTP, remembers, and learns from its own stream."""

    host: str = "127.0.0.1"
    """Address to listen on. Plain HTTP: put a proxy that speaks TLS before any other than the loopback."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    directory: Path | None = None
    """Where everything lives that outlasts a run: keys, experiences, reviews, versions, the audit log. `online` below
    the working directory when not set, of a demo below its run directory."""
    read_only: bool = False
    """Answer only: nothing of any request is kept, and nothing is learned."""
    deadline_s: float = Field(default=30.0, gt=0.0, le=3600.0)
    """Seconds after which a question that has not begun is not begun any more."""
    drain_s: int = Field(default=30, ge=1)
    """Seconds that questions which are being answered have to finish when the service is stopped."""
    demo_items: int = Field(default=0, ge=0)
    """Questions of a stream that the service sends itself, to show that it learns; 0 for none. It ends after them."""
    policy: PolicyConfig = PolicyConfig()
    """The policy that answers, and that learns; the shipped starter when no path is given."""
    operations: tuple[Annotated[Choice, choice("operation")], ...] = Field(
        default_factory=lambda: (ZOOM_IN,)  # type: ignore[arg-type]
    )
    """Visual operations that the policy may call."""
    voter: Annotated[Choice, choice("voter")] = Choice("voter", "ensemble")
    """How the policy's answer and those of similar experiences become one."""
    admission: AdmissionConfig = AdmissionConfig()
    """What a client may send, and how much of it."""
    batching: BatchingConfig = BatchingConfig()
    """How questions are answered together."""
    engine: EngineConfig = EngineConfig()
    """What is remembered, reviewed and kept, and for how long."""
    update: UpdateConfig = Field(default_factory=dict)  # type: ignore[assignment]
    """How updates are made; `policy` and `operations` are those above."""
    transport: TransportConfig = TransportConfig()
    """The process that makes them."""
    alerts: AlertsConfig = AlertsConfig()
    """When somebody should look."""
    trackers: Trackers = ("auto",)
    """Trackers of accelerate (tensorboard, wandb, …) that are told how the service does; `auto`: those of the two that
    are installed and can be started."""
    track_every_s: float = Field(default=10.0, ge=0.1)
    """Seconds between two times that they are told."""

    @field_validator("update", mode="before")
    @classmethod
    def _learn_what_is_served(cls, value: Any, info: ValidationInfo) -> Any:
        """The update worker loads the very policy that answers: as it was checked, or a mistake in it is told twice."""
        if not isinstance(value, Mapping):
            return value
        return {**{name: info.data[name] for name in ("policy", "operations") if name in info.data}, **value}

    @model_validator(mode="after")
    def _is_one_policy(self) -> OnlineConfig:
        for name in ("policy", "operations"):
            if getattr(self, name) != getattr(self.update, name):
                raise ValueError(f"update.{name}: must be what is served; leave it out")
        return self

    def check_here(self, workdir: Path) -> None:
        """That the device is there, the address can be listened on, and the directory used. Raises ConfigError, and
        PolicyError of the device."""
        device_of(self.policy.device)
        bound(self.host, self.port).close()
        directory = self.directory or workdir / DIRECTORY
        if self.directory or (directory.exists() and not self.demo_items):  # else the run makes it where it is itself
            check_directory(directory)


__all__ = ["DIRECTORY", "OnlineConfig"]
