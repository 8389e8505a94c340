"""The only reader of the environment: where this server runs. Each field says its unit and effect."""

from __future__ import annotations

import ipaddress
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from cluster.webhooks import check_secrets

MIB = 1024**2
GIB = 1024**3

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """A server of the operator's that engines may ask, and the model to name there."""

    url: str
    model: str
    api_key: SecretStr


class Settings(BaseSettings):
    """Read from `MEDIARAY_*`. Refuses unsafe combinations at start instead of failing later."""

    model_config = SettingsConfigDict(env_prefix="MEDIARAY_", frozen=True, hide_input_in_errors=True)

    data_dir: Path = Path("~/.mediaray")
    """Folder of the task database, local artifacts and workspaces; outside Ray's session folder."""
    database_url: str = ""
    """SQLAlchemy URL of the task store. Empty: SQLite in data_dir. postgresql://… for clusters."""
    storage_url: str = ""
    """Artifact store: empty or file:///path for a local folder, s3://bucket/prefix for S3."""
    bucket: str = "mediaray"
    """Bucket name that s3:// and minio:// input paths may name when storage is local."""
    models_dir: Path | None = None
    """Folder of full-engine weights; None: only embedded engines."""
    http_host: str = "127.0.0.1"
    """Address the HTTP server listens on. Anything but loopback needs API keys."""
    http_port: int = Field(8000, ge=1, le=65535)
    public_url: str = ""
    """Base of download URLs, for servers behind a proxy. Empty: the request's own base URL."""
    api_keys: str = ""
    """tenant:sha256:HASH of each key, separated by commas (`mediaray keys new`); empty: loopback only."""
    rate_limit_create: int = Field(100, ge=0)
    """Tasks a caller may create per minute at one ingress replica (each counts for itself); 0: no limit."""
    rate_limit_status: int = Field(200, ge=0)
    """Status and result reads of a caller per minute at one ingress replica; 0: no limit.

    A caller is a tenant; without keys an address, which behind the private HAProxy is 127.0.0.1 for all.
    """
    hosts: str = ""
    """Host names that serve one dialect alone: flashvsr.example.com=flashvsr, separated by commas."""
    max_upload_bytes: int = Field(4 * GIB, gt=0)
    """Largest accepted upload. Refused before the body is read where Content-Length says so."""
    max_json_bytes: int = Field(1 * MIB, gt=0)
    """Largest accepted JSON body; inputs are references, not data."""
    max_queued_tasks: int = Field(10_000, gt=0)
    """Queue bound per service; beyond it submits answer 503 with Retry-After."""
    max_running_per_tenant: int = Field(0, ge=0)
    """Tasks of one service that one tenant may have running at a time; further ones wait. 0: no bound."""
    max_listeners: int = Field(800, gt=0)
    """Open event streams and long polls at one ingress replica; further ones answer 503. Below what the
    replica takes at once (`max_ongoing_requests` in serve_config.yaml), so that other requests have room.
    Where the keys are of several tenants, each may hold half of them."""
    max_pixels: int = Field(8192 * 8192, gt=0)
    """Largest accepted frame or image, in pixels of one side times the other."""
    download_url_ttl_s: int = Field(3600, gt=0)
    """How long a download URL stays valid, in seconds."""
    retention_s: float = Field(7 * 86400.0, gt=0)
    """How long a finished task and its files are kept, in seconds."""
    lease_s: float = Field(15.0, gt=0)
    """How long an attempt may stay silent before its task goes back to the queue, in seconds."""
    workspace_dir: Path | None = None
    """Folder of per-attempt scratch folders on each node; None: data_dir/work."""
    catalog: Path | None = None
    """Job catalogue of the `indexed` dialect: a YAML file; None: api/jobs.yaml, which shows its form."""
    callback_allow_cidrs: str = ""
    """Networks that callbacks and input URLs may reach besides public addresses: 10.1.0.0/16,fd00::/8."""
    callback_secret: str = ""
    """Signs callbacks (Standard Webhooks): whsec_ and base64; several, separated by spaces, sign together."""
    input_url_max_bytes: int | None = Field(None, gt=0)
    """Largest file taken from an http(s) URL, in bytes; None: max_upload_bytes."""
    input_url_timeout_s: float = Field(600.0, gt=0)
    """How long the download of one input URL may take, in seconds."""
    chat_url: str = ""
    """Base URL of an OpenAI-compatible chat API (http://127.0.0.1:11434/v1); empty: none.

    It corrects subtitles, and splits long prompts of videos into scenes.
    """
    chat_model: str = ""
    """Model to name at `chat_url`; has no default, as each server knows others."""
    chat_api_key: SecretStr = SecretStr("")
    """Bearer key of `chat_url`; empty: none is sent."""
    indextts_url: str = ""
    """Base URL of a server with IndexTTS behind /v1/audio/speech (http://127.0.0.1:8091/v1); empty: none."""
    indextts_model: str = "IndexTTS2"
    """Model to name at `indextts_url`."""
    indextts_api_key: SecretStr = SecretStr("")
    """Bearer key of `indextts_url`; empty: none is sent."""
    show_diagnostics: bool = False
    """List diagnostics.echo among the supported tasks (it always runs)."""

    @field_validator("callback_secret")
    @classmethod
    def _check_secret(cls, text: str) -> str:
        check_secrets(text)
        return text

    @field_validator("chat_url", "indextts_url")
    @classmethod
    def _check_endpoint(cls, text: str, info: ValidationInfo) -> str:
        name = f"MEDIARAY_{(info.field_name or '').upper()}"
        try:
            parts = urlsplit(text)
            is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port or an IPv6 address that is none
            is_whole = False
        if text and not is_whole:
            raise ValueError(f"{name} is no URL of a server: write it as http://127.0.0.1:11434/v1")
        if text and "@" in parts.netloc:
            raise ValueError(f"{name} must not carry a user name or password: {name[:-3]}API_KEY is for keys")
        if not _is_one_word(text) or "?" in text or "#" in text:  # the path of each request is put behind it
            raise ValueError(f"{name} must have no query, fragment, white space or control character")
        return text.rstrip("/")

    @field_validator("chat_model", "indextts_model")
    @classmethod
    def _strip(cls, text: str) -> str:
        return text.strip()

    @field_validator("chat_api_key", "indextts_api_key")
    @classmethod
    def _check_key(cls, secret: SecretStr, info: ValidationInfo) -> SecretStr:
        key = secret.get_secret_value().strip()
        if not key.isascii() or not _is_one_word(key):
            name = f"MEDIARAY_{(info.field_name or '').upper()}"
            raise ValueError(f"{name} must be printable ASCII without white space, as a header carries it")
        return SecretStr(key)

    @model_validator(mode="after")
    def _refuse_unnamed_models(self) -> Settings:
        for name, endpoint in self.endpoints.items():
            if not endpoint.model:
                variable = f"MEDIARAY_{name.upper()}"
                raise ValueError(
                    f"{variable}_URL is set and {variable}_MODEL is empty: name the model to ask for"
                )
        return self

    @model_validator(mode="after")
    def _refuse_unsafe(self) -> Settings:
        self.check_listener(self.http_host, "MEDIARAY_HTTP_HOST")
        return self

    def check_listener(self, host: str, name: str) -> None:
        """Raise ValueError for a listener beyond loopback without keys; `name` is where `host` was set."""
        if not is_loopback(host) and not self.api_keys:
            raise ValueError(
                f"{name}={host} is reachable from outside and MEDIARAY_API_KEYS is empty: set keys, or listen"
                " on 127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.http_host)

    @field_validator("callback_allow_cidrs")
    @classmethod
    def _refuse_no_networks(cls, text: str) -> str:
        _networks(text)
        return text

    @property
    def callback_networks(self) -> tuple[Network, ...]:
        return _networks(self.callback_allow_cidrs)

    @property
    def endpoints(self) -> Mapping[str, EndpointSettings]:
        """The servers that are set, by the name engines know them by."""
        known = {
            "chat": EndpointSettings(self.chat_url, self.chat_model, self.chat_api_key),
            "indextts": EndpointSettings(self.indextts_url, self.indextts_model, self.indextts_api_key),
        }
        return {name: endpoint for name, endpoint in known.items() if endpoint.url}

    @property
    def data_path(self) -> Path:
        return self.data_dir.expanduser().absolute()

    @property
    def models_path(self) -> Path | None:
        return None if self.models_dir is None else self.models_dir.expanduser().absolute()

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_path / 'tasks.sqlite'}"

    @property
    def resolved_storage_url(self) -> str:
        return self.storage_url or f"file://{self.data_path / 'artifacts'}"

    @property
    def workspace_path(self) -> Path:
        return self.workspace_dir or self.data_path / "work"


def _is_one_word(text: str) -> bool:
    return text.isprintable() and not any(char.isspace() for char in text)


def is_loopback(host: str) -> bool:
    """Whether a name or address is that of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _networks(text: str) -> tuple[Network, ...]:
    """The networks of a comma list; raises ValueError naming the one that is none."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


@dataclass(frozen=True, slots=True)
class PrivatePorts:
    """Loopback ports of one private server, apart from every other server's on this machine.

    `ingress` is where its ingress replicas listen for HAProxy, `fallback_proxy` where Ray's Python proxy does
    until they are up. Ray's defaults are the same for all servers and its sockets share ports silently, so
    that a starting server's callers would reach its neighbour.
    """

    haproxy_stats: int
    haproxy_metrics: int
    fallback_proxy: int
    ingress: range


def environment_of_start() -> dict[str, str]:
    """A copy of this process's environment: what a server that begins anew is given again."""
    return dict(os.environ)


def private_ray_environment(run_dir: Path, ports: PrivatePorts, haproxy: str) -> None:
    """Set what Ray reads when a private server starts: HAProxy with files and ports of its own.

    `haproxy` is the program to run, "" for none. Values that the operator has set stay.
    """
    defaults = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1" if haproxy else "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": haproxy,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run_dir / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run_dir / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(run_dir / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run_dir),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run_dir / "server-state"),
        # HAProxy would tell a Python process of every request, which costs a status read a quarter of its
        # time; without that the ingress replicas count requests themselves.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_proxy),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.ingress.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.ingress.stop - 1),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": tempfile.gettempdir(),
        # Callers write X-Forwarded-For and -Proto themselves: uvicorn must believe nobody's.
        "FORWARDED_ALLOW_IPS": "",
        # Ray's own 15 lets anything else on the machine go first, also in front of the registry.
        "RAY_worker_niceness": "0",
        # Serve's own 0.1 s take twice the CPU of an idle server, a tenth of a core.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
        # HAProxy is started again when three of these have failed: after 6 s; at Serve's own 10 s, after 25.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # We use no pydantic plugin; looking for one reads every installed package, 0.15 s in each process.
        "PYDANTIC_DISABLE_PLUGINS": "__all__",
        # Waiting OpenMP threads sleep: spinning ones take the cores from encoder and neighbours.
        "OMP_WAIT_POLICY": "passive",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if not (_can_keep_ray_token() or os.environ.get("RAY_AUTH_TOKEN_PATH")):
        defaults["RAY_AUTH_TOKEN"] = secrets.token_hex(16)  # for this server alone
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # Ray ends its processes without giving them time to remove their temporary files.
    os.environ["TMPDIR"] = str(run_dir)


def _can_keep_ray_token() -> bool:
    """Whether Ray has its token in the home folder, or can put it there."""
    home = Path(os.path.expanduser("~"))  # where there is none, Path.home raises
    folder = home / ".ray"
    return (folder / "auth_token").is_file() or os.access(folder if folder.is_dir() else home, os.W_OK)
