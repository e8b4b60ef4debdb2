"""The simulated engine: an HTTP server that speaks as vLLM does and needs no accelerator.

`model`, `blocks`, `leases`, `encoder_cache`, `requests`, `handoffs`, `times`, `computing` and `core` are pure: no
I/O, no asyncio. `driver` runs the core in an event loop. Between processes, `stores`, `transfers` with
`side_channel`, `callback`, `rendezvous` and `bootstrap` carry KV, `embedding_pull` and `embedding_push` embeddings;
`kv_connector` and `ec_connector` choose by the command line. `prompts`, `answering` and the writers, `metrics`,
`faults`, `api` and `transport` are the wire.
"""
