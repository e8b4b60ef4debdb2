"""Frames of `prefix_queries` out of what a connection reads, in pieces of any size."""

from __future__ import annotations

from pymotor.fleet.prefix_queries import LENGTH_BYTES, LONGEST_FRAME


class FrameTooLongError(ValueError):
    """A frame says that it is longer than frames are."""


class FrameReader:
    """Takes pieces, gives frames. One that came as most of a piece is not copied."""

    def __init__(self, longest: int = LONGEST_FRAME) -> None:
        self.longest = longest
        """Bytes that a frame may have."""
        self._whole = b""
        self._taken = 0
        """Bytes of it that were given."""
        self._pieces: list[bytes] = []
        """That came after it."""
        self._missing = 0
        """Bytes without which there is no further frame."""

    def feed(self, data: bytes) -> None:
        """The next piece."""
        self._missing -= len(data)
        if self._whole:
            self._pieces.append(data)
        else:
            self._whole = data

    def next(self) -> bytes | memoryview | None:
        """The next frame's content; None: not all of it is here. Raises `FrameTooLongError`."""
        while self._missing <= 0:
            whole, taken = self._whole, self._taken
            begins = ends = taken + LENGTH_BYTES
            if begins <= len(whole):
                size = int.from_bytes(whole[taken:begins], "little")
                if size > self.longest:
                    raise FrameTooLongError(f"a frame has {size} bytes")
                ends = begins + size
                if ends <= len(whole):
                    return self._frame(begins, ends)
            if not self._pieces:
                self._missing = ends - len(whole)
                return None
            self._whole, self._taken = b"".join((whole[taken:], *self._pieces)), 0
            self._pieces.clear()
        return None

    def clear(self) -> None:
        """Nothing more is asked for."""
        self._whole, self._taken, self._missing = b"", 0, 0
        self._pieces.clear()

    def _frame(self, begins: int, ends: int) -> bytes | memoryview:
        whole = self._whole
        self._taken = ends
        if ends == len(whole):
            self._whole, self._taken = b"".join(self._pieces), 0
            self._pieces.clear()
        # What is kept of a small frame must not keep all that came with it.
        return memoryview(whole)[begins:ends] if 2 * (ends - begins) > len(whole) else whole[begins:ends]
