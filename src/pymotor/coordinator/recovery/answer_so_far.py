"""What of a streamed answer has come by now, kept so that it can be carried on elsewhere."""

from __future__ import annotations


class AnswerSoFar:
    """See the module."""
