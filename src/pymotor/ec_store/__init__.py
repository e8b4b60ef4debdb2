"""Care of the directory in which ECExampleConnector keeps embeddings: what is in it, and what may go.

`layout` knows names and files, `reading` what the file system tells about reads, `store` looks and removes without
ever following a symbolic link, `collection` decides, `command` is `pymotor ec-store`.
"""

from pymotor.ec_store.collection import Collected, Limits, collect
from pymotor.ec_store.store import NotAStoreError, StoppedError, Store

__all__ = ["Collected", "Limits", "NotAStoreError", "StoppedError", "Store", "collect"]
