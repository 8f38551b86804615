"""What the agent is measured among: a real Xray, the stand-in master, certificates, settings."""

from __future__ import annotations

import http.client
import json
import os
import sys
import urllib.request
from pathlib import Path

import trustme
from attrs import frozen

from benchmarks.processes import ROOT, CannotMeasure, Child, Room, free_port, wait_until

TOKEN = "a-token-for-measuring"
USER_AGENT = "miaomiaowux/0.1"  # the master's, and ours (README, authentication)
HOST = "127.0.0.1"
BIN = Path(sys.executable).parent


@frozen
class Authority:
    """A CA of our own: `ca` is what the agent trusts, the others what a master serves with."""

    ca: str
    certificate: str
    key: str


@frozen
class Agent:
    """A running agent, started as its users start it."""

    child: Child
    port: int

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self.child.pid

    def healthy(self) -> bool:
        """Tell whether it answers GET /health with 200 now."""
        self.child.check()
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def xray_binary() -> Path:
    """Return the real Xray that `make peers` has installed. Raises CannotMeasure."""
    path = Path(os.environ.get("MMW_PEERS") or ROOT / ".peers" / "bin") / "xray"
    if not os.access(path, os.X_OK):
        raise CannotMeasure(f"there is no Xray at {path}: run `make peers`, or set MMW_PEERS")
    return path


def authority(room: Room) -> Authority:
    """Make a CA and a certificate for 127.0.0.1."""
    ca = trustme.CA()
    served = ca.issue_cert(HOST)
    paths = [room.path / name for name in ("ca.pem", "master.pem", "master.key")]
    ca.cert_pem.write_to_path(str(paths[0]))
    served.private_key_pem.write_to_path(str(paths[2]))
    paths[1].write_bytes(b"".join(blob.bytes() for blob in served.cert_chain_pems))
    return Authority(*map(str, paths))


def xray(room: Room) -> str:
    """Start Xray with counters and metrics, and return the path of its configuration."""
    metrics, inbound = free_port(), free_port()
    counted = {f"stats{kind}{way}": True for kind in ("Inbound", "Outbound") for way in _WAYS}
    client = {"id": "5783a3e7-e373-51cd-8642-c83782b807c5", "email": "one@example.com"}
    path = room.write(
        "xray.json",
        json.dumps(
            {
                "log": {"loglevel": "warning"},
                "stats": {},
                "metrics": {"tag": "metrics", "listen": f"{HOST}:{metrics}"},
                "policy": {
                    "levels": {"0": {"statsUserUplink": True, "statsUserDownlink": True}},
                    "system": counted,
                },
                "inbounds": [
                    {
                        "tag": "in",
                        "listen": HOST,
                        "port": inbound,
                        "protocol": "vless",
                        "settings": {"decryption": "none", "clients": [client]},
                    }
                ],
                "outbounds": [{"tag": "direct", "protocol": "freedom"}],
            }
        ),
    )
    child = room.start("xray", str(xray_binary()), "run", "-c", path)
    url = f"http://{HOST}:{metrics}/debug/vars"

    def answers() -> bool:
        child.check()
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    wait_until(answers, "Xray's metrics", pause=0.05)
    return path


_WAYS = ("Uplink", "Downlink")


def xray_configuration(room: Room, metrics_port: int) -> str:
    """Write the configuration of an Xray that does not run here, only its metrics do."""
    listen = f"{HOST}:{metrics_port}"
    return room.write("xray.json", json.dumps({"metrics": {"tag": "m", "listen": listen}}))


def standin_master(room: Room, port: int, tls: Authority) -> Child:
    """Start the stand-in master, which says each report it gets."""
    child = room.start(
        "the stand-in master",
        str(BIN / "twistd"),
        *("--nodaemon", "--pidfile=", "mmw-standin-master"),
        *("--listen", f"{HOST}:{port}", "--certificate", tls.certificate, "--key", tls.key),
        *("--token", f"bench={TOKEN}"),
    )
    child.line_with("listens on")
    return child


def agent(room: Room, master: str, ca: str | None, xray: str, **settings: object) -> Agent:
    """Start the agent with `settings` besides those it cannot do without."""
    port = free_port()
    written = {
        "master_server": master,
        "remote_token": TOKEN,
        "connection_mode": "websocket",
        "listen_address": HOST,
        "listen_port": port,
        "xray_servers": [{"config_path": xray}],
        "state_directory": str(room.path / "state"),
        **({"tls_ca_file": ca} if ca else {}),
        **settings,
    }
    # JSON is YAML as well.
    path = room.write(f"agent-{port}.yaml", json.dumps(written))
    Path(path).chmod(0o600)
    installed = BIN / "mmw-agent"
    command = [str(installed)] if installed.exists() else [sys.executable, "-m", "mmwagent"]
    return Agent(room.start("the agent", *command, "-c", path), port)
