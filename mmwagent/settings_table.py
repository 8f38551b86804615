"""
The one table of all settings: the fields of `Settings`, each with its row.

Parsing, messages, the example file and the README's table follow it through `OPTIONS`. Names are
the README's (section on the configuration file), aliases those of the files the master's
installer writes.
"""

from __future__ import annotations

from attrs import evolve, field, fields, frozen

from mmwagent.logs import LEVELS
from mmwagent.master_address import master_address
from mmwagent.settings_values import (
    Network,
    Parse,
    XrayServerSetting,
    address,
    certificates_file,
    choice,
    duration,
    interface_glob,
    network,
    one,
    path,
    port,
    secret,
    several,
    switch,
    xray_servers,
)


@frozen
class Option:
    """
    One row of the table of settings.

    `parse` turns what was written into the value, or raises Refused. `variables` are environment
    variables, the one that wins first. `may_be_empty` says that an empty value means "not set";
    elsewhere it is refused. `secret` values never appear in messages.
    """

    name: str
    parse: Parse
    help: str
    default: object
    aliases: tuple[str, ...]
    variables: tuple[str, ...]
    may_be_empty: bool
    secret: bool

    @property
    def default_text(self) -> str:
        """The default as a person would write it, empty when there is none."""
        if isinstance(self.default, bool):
            return str(self.default).lower()
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return str(self.default) if self.default else ""


def _row(
    parse: Parse,
    text: str,
    aliases: tuple[str, ...] = (),
    variables: tuple[str, ...] = (),
    may_be_empty: bool = False,
) -> dict[str, object]:
    """Return an attrs field's metadata; name, default and secrecy are the field's own."""
    row = Option("", parse, text, None, aliases, variables, may_be_empty, False)
    return {"row": row}


@frozen(kw_only=True)
class Settings:
    """
    Everything the agent can be told. Spans of time are seconds, paths absolute.

    `path` is the file read, if any. `token_from` says where `remote_token` came from:
    "environment", "file" or None. `warnings` are sentences to be logged at start.
    """

    master_server: str | None = field(
        default=None,
        metadata=_row(
            one(master_address),
            "address of the master, https:// or http://",
            aliases=("master_url",),
            variables=("MMWX_MASTER_URL",),
            may_be_empty=True,
        ),
    )
    remote_token: str | None = field(
        default=None,
        repr=False,
        metadata=_row(
            one(secret),
            "this server's token, as the master shows it",
            aliases=("token",),
            variables=("MMWX_MASTER_TOKEN", "MMWX_TOKEN"),
            may_be_empty=True,
        ),
    )
    connection_mode: str = field(
        default="auto",
        metadata=_row(
            choice("auto", "websocket", "http", "pull"),
            "auto, websocket, http or pull",
            variables=("MMWX_CONNECTION_MODE",),
        ),
    )
    listen_port: int = field(
        default=23889,
        metadata=_row(one(port), "port of the management API", variables=("MMWX_LISTEN_PORT",)),
    )
    listen_address: str = field(
        default="",
        metadata=_row(
            one(address),
            "IP address the management API listens on; empty for all, IPv4 and IPv6",
            variables=("MMWX_LISTEN_ADDRESS",),
            may_be_empty=True,
        ),
    )
    child_api_token: str | None = field(
        default=None,
        repr=False,
        metadata=_row(
            one(secret),
            "token of the master's requests in pull mode",
            variables=("MMWX_CHILD_API_TOKEN",),
            may_be_empty=True,
        ),
    )
    traffic_report_interval: float = field(
        default=60.0,
        metadata=_row(
            duration(1, 3600),
            "time between traffic reports, 1s to 1h",
            variables=("MMWX_TRAFFIC_INTERVAL",),
        ),
    )
    speed_report_interval: float = field(
        default=3.0,
        metadata=_row(
            duration(1, 600),
            "time between speed reports, 1s to 10m",
            variables=("MMWX_SPEED_INTERVAL",),
        ),
    )
    heartbeat_interval: float = field(
        default=30.0,
        metadata=_row(
            duration(1, 240),
            "time between heartbeats, 1s to 4m; above 1m the master may show the server offline",
            variables=("MMWX_HEARTBEAT_INTERVAL",),
        ),
    )
    xray_servers: tuple[XrayServerSetting, ...] = field(
        default=(),
        metadata=_row(
            xray_servers,
            "Xray's configuration files; looked for when not given",
            variables=("MMWX_XRAY_CONFIG",),
            may_be_empty=True,
        ),
    )
    pull_any_user_agent: bool = field(
        default=False,
        metadata=_row(
            one(switch),
            "take pulls of traffic and speed with the right token from any User-Agent",
            variables=("MMWX_PULL_ANY_USER_AGENT",),
        ),
    )
    allow_from: tuple[Network, ...] = field(
        default=(),
        metadata=_row(
            several(network),
            "IP addresses and networks that may use the management API; all when not given",
        ),
    )
    tls_ca_file: str | None = field(
        default=None,
        metadata=_row(
            certificates_file,
            "PEM file of the certificates to trust for the master; relative to this file",
            variables=("MMWX_TLS_CA_FILE",),
            may_be_empty=True,
        ),
    )
    state_directory: str = field(
        default="/var/lib/mmw-agent",
        metadata=_row(
            one(path),
            "where the agent keeps its own files; systemd's $STATE_DIRECTORY comes before this "
            "default",
            variables=("MMWX_STATE_DIRECTORY",),
        ),
    )
    speed_include: tuple[str, ...] = field(
        default=(),
        metadata=_row(
            several(interface_glob),
            "patterns of the network interfaces to count; the physical ones when not given",
            may_be_empty=True,
        ),
    )
    speed_exclude: tuple[str, ...] = field(
        default=(),
        metadata=_row(
            several(interface_glob),
            "patterns of network interfaces not to count",
            may_be_empty=True,
        ),
    )
    log_level: str = field(
        default="info",
        metadata=_row(
            choice(*LEVELS), "debug, info, warn or error", variables=("MMWX_LOG_LEVEL",)
        ),
    )
    path: str | None = None
    token_from: str | None = None
    warnings: tuple[str, ...] = ()


OPTIONS: tuple[Option, ...] = tuple(
    evolve(each.metadata["row"], name=each.name, default=each.default, secret=not each.repr)
    for each in fields(Settings)
    if "row" in each.metadata
)
