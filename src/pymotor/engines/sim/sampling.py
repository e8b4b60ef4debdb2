"""Choosing the next token of a request, and whether it is the last."""

from __future__ import annotations

from pymotor.engines.sim import model
from pymotor.engines.sim.requests import Request


def sample(request: Request, eos: int, max_model_len: int) -> tuple[int, str | None, int | str | None]:
    """Add a token to a request whose positions are all computed.

    Returns the token, the finish reason or None, and the stop string or token id that ended the answer.
    """
    sampling = request.sampling
    produced = len(request.output) + 1
    eos_allowed = not sampling.ignore_eos and produced > sampling.min_tokens
    token = model.next_token(request.readout, request.length, sampling.seed, eos, eos_allowed)
    request.output.append(token)
    if sampling.stop and token != eos:
        request.text += chr(token)
    if token == eos:
        return token, "stop", None
    if produced >= sampling.min_tokens:
        stop = token if token in sampling.stop_token_ids else _matched_stop(request)
        if stop is not None:
            return token, "stop", stop
    if produced >= sampling.max_tokens or request.length >= max_model_len:
        return token, "length", None
    return token, None, None


def _matched_stop(request: Request) -> str | None:
    for stop in request.sampling.stop:
        if request.text.endswith(stop):
            if not request.sampling.include_stop:
                request.text = request.text[: -len(stop)]
            return stop
    return None
