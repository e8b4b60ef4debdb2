"""`env.json`: the environment variables of each part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from pymotor.config.section import Section

EnvValue = str | int | float | bool
VARIABLE_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
VariableName = Annotated[str, Field(pattern=VARIABLE_NAME)]
Variables = Annotated[dict[VariableName, EnvValue], Field(json_schema_extra={"additionalProperties": False})]

SECTIONS: Mapping[str, str] = {
    "controller": "motor_controller_env",
    "coordinator": "motor_coordinator_env",
    "encode": "motor_engine_encode_env",
    "prefill": "motor_engine_prefill_env",
    "decode": "motor_engine_decode_env",
    "union": "motor_engine_union_env",
    "kv_cache_pool": "motor_kv_cache_pool_env",
    "kv_conductor": "motor_kv_conductor_env",
    "mf_store": "motor_mf_store_env",
}
"""The section of each role's own variables."""


class EnvConfig(Section):
    """`env.json`: the environment variables of each part. Values are handed over as they are, never to a shell."""

    schema_location: str | None = Field(None, alias="$schema", description="Where an editor finds the JSON schema.")
    version: str | int | float | None = Field(None, description="For the reader; PyMotor does not use it.")
    motor_common_env: Variables = Field(default_factory=dict, description="Of all parts.")
    motor_controller_env: Variables = Field(default_factory=dict, description="Of the Controller.")
    motor_coordinator_env: Variables = Field(default_factory=dict, description="Of the Coordinator.")
    motor_engine_encode_env: Variables = Field(default_factory=dict, description="Of encode engines.")
    motor_engine_prefill_env: Variables = Field(default_factory=dict, description="Of prefill engines.")
    motor_engine_decode_env: Variables = Field(default_factory=dict, description="Of decode engines.")
    motor_engine_union_env: Variables | None = Field(
        None, description="Of union engines; without it they get what prefill engines get."
    )
    motor_kv_cache_pool_env: Variables = Field(default_factory=dict, description="Of the KV pool's master.")
    motor_kv_conductor_env: Variables = Field(default_factory=dict, description="Of the KV conductor.")
    motor_mf_store_env: Variables = Field(default_factory=dict, description="Of the memfabric store.")

    def variables(self, role: str) -> dict[str, str]:
        """The environment of a role: the common variables, then its own, which win.

        Roles are the keys of `SECTIONS`; raises KeyError for another. Booleans become `true` and `false`.
        """
        own: Variables | None = getattr(self, SECTIONS[role])
        if own is None:
            own = self.motor_engine_prefill_env
        return {name: environment_string(value) for name, value in {**self.motor_common_env, **own}.items()}

    def sections(self) -> Iterator[tuple[str, Variables]]:
        """Each section that is there, by its key in the file."""
        for key in ("motor_common_env", *SECTIONS.values()):
            section: Variables | None = getattr(self, key)
            if section is not None:
                yield key, section


def environment_string(value: EnvValue) -> str:
    """A JSON value as an environment variable holds it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
