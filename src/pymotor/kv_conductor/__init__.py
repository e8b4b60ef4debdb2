"""The KV Conductor: which endpoint holds the beginning of which prompt, learnt from the engines' KV events."""
