"""Options of the HTTP client: how long it waits, and what the environment says of it.

obstore gives each answer 30 seconds, body and all, which is too little for a shard over a slow network. Options that
are given to it take the place of all that it would read from the environment, so these are read here.
"""

from __future__ import annotations

import os

SILENT_SECONDS = 60.0
"""Time without a byte after which an answer counts as broken off."""

_PREFIXES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}

_KEYS = (
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "http1_only",
    "http2_only",
    "pool_idle_timeout",
    "pool_max_idle_per_host",
    "proxy_ca_certificate",
    "proxy_excludes",
    "proxy_url",
    "read_timeout",
    "timeout",
    "user_agent",
)


def client_options(scheme: str) -> dict[str, str]:
    """Returns the options for the buckets of a scheme; `AWS_TIMEOUT` and the like come before our own."""
    variables = {key: f"{_PREFIXES[scheme]}_{key.upper()}" for key in _KEYS}
    stated = {key: os.environ[variable] for key, variable in variables.items() if variable in os.environ}
    return {"read_timeout": f"{SILENT_SECONDS:g}s", "timeout": "1day", **stated}
