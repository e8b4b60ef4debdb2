"""httpx without reading certificates, which costs more than a whole request does here."""

from __future__ import annotations

import ssl
from functools import partial

import httpx

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
SECONDS = 60.0
"""How long a client waits unless it says otherwise: for what takes milliseconds on a machine of leisure."""

get = partial(httpx.get, verify=CONTEXT, timeout=SECONDS)
post = partial(httpx.post, verify=CONTEXT, timeout=SECONDS)
delete = partial(httpx.delete, verify=CONTEXT, timeout=SECONDS)
options = partial(httpx.options, verify=CONTEXT, timeout=SECONDS)
request = partial(httpx.request, verify=CONTEXT, timeout=SECONDS)
stream = partial(httpx.stream, verify=CONTEXT, timeout=SECONDS)
