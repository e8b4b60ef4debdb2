"""Counters of engines go on over restarts and departures; gauges of those that are silent do not."""

from __future__ import annotations

from pymotor.coordinator.engine_figures import Departed, EngineFigures
from pymotor.engines.metrics_merging import Families, read_families
from pymotor.fleet import Role


def said(tokens: float, finished: dict[str, float], running: float = 1.0) -> Families:
    """What an engine says."""
    lines = ["# HELP tokens_total T.", "# TYPE tokens_total counter", f"tokens_total {tokens}"]
    lines += ["# HELP running R.", "# TYPE running gauge", f"running {running}"]
    lines += ["# HELP finished_total F.", "# TYPE finished_total counter"]
    lines += [f'finished_total{{reason="{reason}"}} {value}' for reason, value in finished.items()]
    return read_families("\n".join(lines) + "\n")


def values(families: Families) -> dict[str, float]:
    return {
        name + "".join(value for _, value in labels): value
        for family in families.values()
        for (name, labels), value in family.series.items()
    }


def test_a_restart_goes_on_where_the_former_life_ended() -> None:
    engine = EngineFigures()
    engine.take(said(10, {"stop": 2, "abort": 1}))
    engine.take(said(12, {"stop": 3, "abort": 1}))
    assert values(engine.families())["tokens_total"] == 12
    engine.take(said(5, {"stop": 1}, running=4))
    expected = {"tokens_total": 17, "finished_totalstop": 4, "finished_totalabort": 1, "running": 4}
    assert values(engine.families()) == expected
    engine.take(said(6, {"stop": 1}))
    engine.take(said(0, {"stop": 0}))
    assert values(engine.families())["tokens_total"] == 18


def test_a_silent_engine_keeps_its_counters_only() -> None:
    engine = EngineFigures()
    assert engine.families() == {}
    engine.take(said(10, {"stop": 2}))
    engine.miss()
    assert values(engine.families()) == {"tokens_total": 10, "finished_totalstop": 2}
    engine.take(said(11, {"stop": 2}))
    assert values(engine.families()) == {"tokens_total": 11, "finished_totalstop": 2, "running": 1}


def test_what_those_that_left_had_counted_stays_with_their_role() -> None:
    departed = Departed()
    for role in (Role.DECODE, Role.DECODE, Role.UNION):
        engine = EngineFigures()
        engine.take(said(10, {"stop": 2}))
        departed.add(role, engine)
    found = {role: values(families) for role, families in departed.families()}
    assert found == {
        Role.DECODE: {"tokens_total": 20, "finished_totalstop": 4},
        Role.UNION: {"tokens_total": 10, "finished_totalstop": 2},
    }
