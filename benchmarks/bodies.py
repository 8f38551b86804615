"""A body of /debug/vars as Xray gives it, for as many users as are asked for. Pure."""

from __future__ import annotations

import json

ADDRESSES = 61  # size classes that Go's runtime counts by
PAUSES = 256  # of its garbage collector, kept by Go's runtime


def variables(users: int) -> list[bytes]:
    """
    Return the pieces in which a Go server writes the body: one variable, one piece.

    The form is that of Go's package expvar and of Xray's stats: names sorted, no spaces, counters
    of one name with "downlink" first. Every user has traffic, as after some hours.
    """
    names = [f"user{number:05}@example.com" for number in range(users)]
    stats = {
        "inbound": {f"in-{number}": _pair(number, 10**12) for number in range(3)},
        "outbound": {name: _pair(7, 10**12) for name in ("block", "direct")},
        "user": {name: _pair(number, 10**10) for number, name in enumerate(names)},
    }
    values = {
        "cmdline": ["/usr/local/bin/xray", "run", "-c", "/usr/local/etc/xray/config.json"],
        "memstats": _memory_statistics(),
        "observatory": None,
        "stats": stats,
    }
    pieces = [b"{\n"]
    for name, value in values.items():
        before = b"" if len(pieces) == 1 else b",\n"
        text = json.dumps(value, separators=(",", ":")).encode("ascii")
        pieces.append(before + f'"{name}": '.encode("ascii") + text)
    return [*pieces, b"\n}\n"]


def _pair(number: int, size: int) -> dict[str, int]:
    # Of many lengths, as real counters are; the same in each run.
    spread = (number * 2654435761) % 2**32
    return {"downlink": size * 10 + spread * 17, "uplink": size + spread}


def _memory_statistics() -> dict[str, object]:
    sizes = [
        {"Size": 16 * number, "Mallocs": 1000 * number, "Frees": 990 * number}
        for number in range(ADDRESSES)
    ]
    names = "Alloc TotalAlloc Sys Lookups Mallocs Frees HeapAlloc HeapSys HeapIdle HeapInuse"
    names += " HeapReleased HeapObjects StackInuse StackSys MSpanInuse MSpanSys MCacheInuse"
    names += " MCacheSys BuckHashSys GCSys OtherSys NextGC LastGC PauseTotalNs"
    pauses = [35_000 + number for number in range(PAUSES)]
    return {
        **dict.fromkeys(names.split(), 13543704),
        "PauseNs": pauses,
        "PauseEnd": [1_790_000_000_000_000_000 + pause for pause in pauses],
        "NumGC": 300,
        "NumForcedGC": 0,
        "GCCPUFraction": 0.00012,
        "EnableGC": True,
        "DebugGC": False,
        "BySize": sizes,
    }
