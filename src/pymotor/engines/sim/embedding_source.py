"""Where an engine gets the embeddings of a prompt's media from."""

from __future__ import annotations

from pymotor.engines.sim import model
from pymotor.engines.sim.core_types import EmbeddingStore
from pymotor.engines.sim.encoder_cache import EncoderCache
from pymotor.engines.sim.model import Words
from pymotor.engines.sim.requests import EngineDeadError, MediaItem, Request
from pymotor.engines.sim.times import Work


class EmbeddingSource:
    """Memory first, then the store that a consumer reads, then the encoder."""

    def __init__(self, cache: EncoderCache, store: EmbeddingStore | None, *, produces: bool, consumes: bool) -> None:
        self._cache = cache
        self._read = store if consumes else None
        self._write = store if produces else None

    def get(self, item: MediaItem, request: Request, work: Work) -> Words | None:
        """The item's embedding, held in memory for the request; None when there is no room yet.

        Only what is encoded here is saved: an item that this engine still remembers does not return to a store
        that has lost it, as in vLLM. Raises `EngineDeadError` where there is neither embedding nor media.
        """
        embedding = self._cache.get(item.identifier)
        if embedding is None and self._read is not None:
            embedding = self._read.load(item.identifier)
            if embedding is not None:
                work.moved_embedding_tokens += item.tokens
        if embedding is None:
            embedding = self._encode(item, work)
        if len(embedding) != item.tokens:
            raise EngineDeadError(f"embedding {item.identifier} has {len(embedding)} tokens, not {item.tokens}")
        if not self._cache.put(item.identifier, embedding):
            return None
        self._cache.hold(item.identifier, request.id)
        return embedding

    def _encode(self, item: MediaItem, work: Work) -> Words:
        if item.content_digest is None:
            raise EngineDeadError(f"no embedding for {item.identifier} and no media to encode")
        embedding = model.embed(item.content_digest, item.tokens)
        work.encoded_items += 1
        work.encoded_tokens += item.tokens
        if self._write is not None:
            self._write.save(item.identifier, embedding)
            work.moved_embedding_tokens += item.tokens
        return embedding
