"""Every instance restarted, one after the other, under load: nobody notices."""

from __future__ import annotations

import random
from pathlib import Path

from cluster import Cluster
from cluster_load import Load, known_answers

from pymotor.fleet import Role

RATE = 50.0
ROLES = {Role.ENCODE: 2, Role.PREFILL: 2, Role.DECODE: 2}


def test_all_instances_restarted_under_load(tmp_path: Path) -> None:
    with Cluster(tmp_path, ROLES, workers=2) as cluster:
        known = known_answers(cluster.urls[0], 60, random.Random(1))
        before = {name: cluster.engine_pid(name) for name in cluster.states()}
        with Load(cluster.urls, known, RATE, random.Random(2)) as sendings:
            restarted = cluster.verb("instances", "restart", "--all", "--wait")
        assert restarted.returncode == 0, restarted.stdout + restarted.stderr
        assert set(sendings.outcomes) == {"right"}, sendings.outcomes
        after = {name: cluster.engine_pid(name) for name in cluster.states()}
        assert before.keys() == after.keys()
        assert not set(before.values()) & set(after.values()), "an engine was not started anew"
    assert not cluster.leftovers()
