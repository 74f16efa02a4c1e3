"""Just enough HTTP/1.1 for one request or answer after the other on a connection, read by length."""

from __future__ import annotations

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class Messages:
    """Takes what arrives and gives back whole messages."""

    def __init__(self) -> None:
        self._received = b""

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Header and body of every message that is whole now."""
        received = self._received + data if self._received else data
        found: list[tuple[bytes, bytes]] = []
        while (head_end := received.find(_END)) >= 0:
            start = head_end + 4
            end = start + _length(received[:head_end])
            if len(received) < end:
                break
            found.append((received[:head_end], received[start:end]))
            received = received[end:]
        self._received = received
        return found


def _length(head: bytes) -> int:
    head = head.lower()
    at = head.find(_LENGTH)
    if at < 0:
        return 0
    return int(head[at + len(_LENGTH) :].partition(b"\r")[0])
