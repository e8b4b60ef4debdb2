"""The text of `pymotor top`, line by line."""

from __future__ import annotations

from pymotor.operate.top_reading import InstanceRow, Snapshot

_STATE_COLOURS = {"active": 32, "draining": 33, "initial": 33, "inactive": 31, "gone": 31}
_ROLES = ("encode", "prefill", "decode", "union")
_BAR = 10


def screen(found: Snapshot, *, colour: bool, rows: int | None = None) -> list[str]:
    """The lines, at most `rows` of them; `colour`: with ANSI's."""
    state = _coloured("serves", 32, colour) if found.ready else _coloured("does not serve", 31, colour)
    lines = [
        f"{state}   workers {found.workers_listening}/{found.workers}   in flight {found.in_flight}"
        f"   queued {found.queued}",
        f"requests/s {found.requests_per_second:.1f}   failed/s {found.failed_per_second:.1f}"
        f"   tokens/s {found.tokens_per_second:.0f}"
        f"   first token p50 {_seconds(found.first_token_p50)} p95 {_seconds(found.first_token_p95)}",
        *(f"  {_coloured('!', 31, colour)} {lack}" for lack in found.missing),
        "",
    ]
    width = max((len(one.name) for one in found.instances), default=8)
    head = f"{'INSTANCE':<{width}}  {'ROLE':<8}{'STATE':<10}{'FLIGHT':>7}{'LOAD':>9}{'RUN':>6}{'WAIT':>6}  KV CACHE"
    lines.append(_coloured(head, 1, colour))
    ordered = sorted(found.instances, key=_place)
    lines += [_instance(one, width, colour) for one in ordered]
    if rows is not None and len(lines) >= rows:
        left_out = len(lines) - rows + 2
        lines = [*lines[: max(0, rows - 2)], f"… {left_out} more"]
    return lines


def _place(one: InstanceRow) -> tuple[int, int, str]:
    role = _ROLES.index(one.role) if one.role in _ROLES else len(_ROLES)
    return (role, len(one.name), one.name)


def _instance(one: InstanceRow, width: int, colour: bool) -> str:
    state = _coloured(f"{one.state:<10}", _STATE_COLOURS.get(one.state, 0), colour)
    return (
        f"{one.name:<{width}}  {one.role:<8}{state}{one.in_flight:>7}{one.load_tokens:>9.0f}"
        f"{_count(one.running):>6}{_count(one.waiting):>6}  {_bar(one.kv_usage)}"
    )


def _bar(part: float | None) -> str:
    if part is None:
        return "-"
    full = round(_BAR * min(1.0, max(0.0, part)))
    return f"{'█' * full}{'░' * (_BAR - full)} {part:>4.0%}"


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _coloured(text: str, code: int, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour and code else text
