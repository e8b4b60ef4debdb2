"""How many requests and tokens are let in, for each key and for all."""
