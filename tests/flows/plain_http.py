"""httpx without reading certificates, which costs more than a whole request does here."""

from __future__ import annotations

import ssl
from functools import partial

import httpx

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

get = partial(httpx.get, verify=CONTEXT)
post = partial(httpx.post, verify=CONTEXT)
delete = partial(httpx.delete, verify=CONTEXT)
options = partial(httpx.options, verify=CONTEXT)
request = partial(httpx.request, verify=CONTEXT)
stream = partial(httpx.stream, verify=CONTEXT)
