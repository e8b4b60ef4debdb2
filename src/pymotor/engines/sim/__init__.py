"""The simulated engine: an HTTP server that speaks as vLLM does and needs no accelerator.

`model`, `blocks`, `encoder_cache`, `requests`, `times` and `core` are pure: no I/O, no asyncio.
`stores` and `side_channel` carry embeddings and KV between processes; `driver` runs the core in an event
loop; `prompts`, `replies`, `metrics`, `faults`, `api` and `transport` are the wire.
"""
