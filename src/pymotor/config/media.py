"""How media go through encoders, and the store of their embeddings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pymotor.config.section import Count, NotNegative, Seconds, Section


class EncodeConfig(Section):
    """How media go through encoders."""

    forward_media: Literal["prefill", "never", "always"] = Field(
        "prefill", description="Which stages after encode get the media themselves, beside the embeddings."
    )
    fallback: Literal["inline", "fail"] = Field(
        "inline", description="When no encoder can: media go to prefill, or the request fails."
    )
    reuse_seconds: NotNegative = Field(
        60.0, description="Seconds for which an item in a data URL is known to be in the store of embeddings; 0: off."
    )
    reuse_bytes: Count = Field(67108864, description="Bytes of such items that each worker remembers at most.")
    hedge_after: NotNegative = Field(
        0.0,
        description="Seconds of silence after which another encoder gets the item: as well, or with a store instead; "
        "0: off.",
    )
    store_max_age: NotNegative = Field(
        86400.0,
        description="Seconds after which `pymotor up` removes an item from ECExampleConnector's store when nobody used "
        "it, but not before infer_timeout is over; 0: never.",
    )
    store_max_bytes: Count = Field(
        10737418240,
        description="Bytes from which it removes the least recently used items, in the same bounds; 0: no limit.",
    )
    store_collect_interval: Seconds = Field(300.0, description="Seconds between two looks at the store.")
