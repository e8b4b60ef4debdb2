"""Records of alarms and events, as management platforms read them: their keys, numbers and ids are a fixed format."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import msgspec

UNKNOWN = "Unknown"


class Category(IntEnum):
    """What kind of record it is."""

    ALARM = 1
    CLEAR = 2
    EVENT = 3
    LEVEL_CHANGE = 4
    CONFIRM = 5
    UNCONFIRM = 6
    OTHER_CHANGE = 7


class Cleared(IntEnum):
    """Whether nothing is open any more; events never are."""

    NO = 0
    YES = 1


class ClearCategory(IntEnum):
    """Who clears it."""

    AUTO = 1
    MANUAL = 2


class Severity(IntEnum):
    """The smaller, the worse."""

    CRITICAL = 1
    MAJOR = 2
    MINOR = 3
    WARNING = 4


class EventType(IntEnum):
    """What it is about; those that are used here, of 21."""

    COMMUNICATION = 1
    QUALITY_OF_SERVICE = 4
    STATE_CHANGE = 15


class AlarmKind(msgspec.Struct, frozen=True, kw_only=True):
    """What all records of one id have in common."""

    alarm_id: str
    name: str
    event_type: EventType
    severity: Severity
    causes: tuple[str, ...]
    """What each reason means, from reason 1 on."""
    service_affected: bool = True
    event: bool = False
    """It is told once and never cleared."""


CONTROLLER_TO_SLAVE = AlarmKind(
    alarm_id="0xFC001000",
    name="Controller Master To Slave Alarm",
    event_type=EventType.STATE_CHANGE,
    severity=Severity.WARNING,
    causes=("the leading Controller failed or gave its place up",),
    service_affected=False,
    event=True,
)
SERVICE_LEVEL_DEGRADATION = AlarmKind(
    alarm_id="0xFC001001",
    name="Service Level Degradation Alarm",
    event_type=EventType.STATE_CHANGE,
    severity=Severity.MAJOR,
    causes=("fewer instances are active than are wanted",),
)
INSTANCE_EXCEPTION = AlarmKind(
    alarm_id="0xFC001002",
    name="Model Instance Exception Alarm",
    event_type=EventType.STATE_CHANGE,
    severity=Severity.CRITICAL,
    causes=("hardware or software of the instance failed",),
)
SERVER_EXCEPTION = AlarmKind(
    alarm_id="0xFC001003",
    name="Server Exception Alarm",
    event_type=EventType.STATE_CHANGE,
    severity=Severity.MAJOR,
    causes=("a node is not heard of", "an endpoint is not healthy"),
    event=True,
)
COORDINATOR_EXCEPTION = AlarmKind(
    alarm_id="0xFC001004",
    name="Coordinator Service Exception Alarm",
    event_type=EventType.QUALITY_OF_SERVICE,
    severity=Severity.CRITICAL,
    causes=("no instance of a role that is needed is active", "the Coordinator is not heard of"),
)
REQUEST_CONGESTION = AlarmKind(
    alarm_id="0xFC001005",
    name="Coordinator Request Congestion Alarm",
    event_type=EventType.STATE_CHANGE,
    severity=Severity.MAJOR,
    causes=("requests pile up at the Coordinator",),
    event=True,
)


class AlarmRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One record; in JSON its keys are in camelCase."""

    category: int = Category.ALARM
    cleared: int = Cleared.NO
    clear_category: int = ClearCategory.AUTO
    occur_utc: int = 0
    """Milliseconds since 1970."""
    occur_time: int = 0
    """The same."""
    native_me_dn: str = UNKNOWN
    """Of which service: `SERVICE_ID`."""
    origin_system: str = UNKNOWN
    """`ENGINE_TYPE`, like the next two."""
    origin_system_name: str = UNKNOWN
    origin_system_type: str = UNKNOWN
    location: str = ""
    moi: str = ""
    """The managed object instance: the location again."""
    event_type: int = EventType.COMMUNICATION
    alarm_id: str = ""
    alarm_name: str = ""
    severity: int = Severity.CRITICAL
    probable_cause: str = ""
    reason_id: int = 0
    service_affected_type: int = 0
    additional_information: str = ""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes records."""

    service_id: str = UNKNOWN
    engine_type: str = UNKNOWN
    address: str = ""
    """The Controller's own, without a port."""

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> Origin:
        """From `SERVICE_ID`, `ENGINE_TYPE` and `POD_IP`."""
        return cls(
            service_id=variables.get("SERVICE_ID") or UNKNOWN,
            engine_type=variables.get("ENGINE_TYPE") or UNKNOWN,
            address=variables.get("POD_IP", ""),
        )


def record_of(
    kind: AlarmKind, origin: Origin, *, reason: int, where: str, detail: str, milliseconds: int, cleared: bool = False
) -> AlarmRecord:
    """A record of that kind.

    `reason` counts from 1; `where` stands as location; `detail` says more for a person, and may be empty;
    `milliseconds` since 1970. `cleared`: an alarm is over.
    """
    category = Category.EVENT if kind.event else Category.CLEAR if cleared else Category.ALARM
    more = f"{where}, {detail}" if detail else where
    return AlarmRecord(
        category=category,
        cleared=Cleared.NO if category is Category.ALARM else Cleared.YES,
        occur_utc=milliseconds,
        occur_time=milliseconds,
        native_me_dn=origin.service_id,
        origin_system=origin.engine_type,
        origin_system_name=origin.engine_type,
        origin_system_type=origin.engine_type,
        location=where,
        moi=where,
        event_type=kind.event_type,
        alarm_id=kind.alarm_id,
        alarm_name=kind.name,
        severity=kind.severity,
        probable_cause=";".join(f"{number}:{cause}" for number, cause in enumerate(kind.causes, 1)),
        reason_id=reason,
        service_affected_type=int(kind.service_affected),
        additional_information=f"{more}, pod id={origin.service_id}",
    )


_SNAKE = {field.name: field.encode_name for field in msgspec.structs.fields(AlarmRecord)}


def record_from(body: bytes, milliseconds: int) -> AlarmRecord:
    """A record that another part sends, keys in camelCase or snake_case, unknown ones passed over.

    `milliseconds` since 1970 stand where it says no time. Raises `ValueError` when it is none.
    """
    document = msgspec.json.decode(body, type=dict[str, Any])
    renamed = {_SNAKE.get(key, key): value for key, value in document.items()}
    record = msgspec.convert(renamed, AlarmRecord)
    if not record.alarm_id:
        raise ValueError("an alarm needs an alarmId")
    return msgspec.structs.replace(
        record, occur_utc=record.occur_utc or milliseconds, occur_time=record.occur_time or milliseconds
    )
