"""A prefill node becomes decode and prefill again, under load: nobody notices."""

from __future__ import annotations

import random
from pathlib import Path

from cluster import Cluster
from cluster_load import Load, known_answers

from pymotor.fleet import Role

RATE = 30.0
ROLES = {Role.ENCODE: 1, Role.PREFILL: 2, Role.DECODE: 1}


def test_a_prefill_node_becomes_decode_and_prefill_again(tmp_path: Path) -> None:
    with Cluster(tmp_path, ROLES, workers=2) as cluster:
        node = cluster.node_of("prefill-1").name
        known = known_answers(cluster.urls[0], 40, random.Random(1))
        with Load(cluster.urls, known, RATE, random.Random(2)) as sendings:
            last = cluster.verb("instances", "switch-role", "decode-0", "--to", "prefill", "--wait")
            assert last.returncode == 1
            assert "last active instance of decode" in last.stderr
            switched = cluster.verb("instances", "switch-role", "prefill-1", "--to", "decode", "--wait")
            assert switched.returncode == 0, switched.stdout + switched.stderr
            assert cluster.node_of("decode-1").name == node
            sendings.wait_for(lambda one: "decode-1" in one.instances)
            back = cluster.verb("instances", "switch-role", "decode-1", "--to", "prefill", "--wait")
            assert back.returncode == 0, back.stdout + back.stderr
            assert cluster.node_of("prefill-1").name == node
            sendings.wait_for(lambda one: "prefill-1" in one.instances, since=len(sendings.sent))
        assert set(sendings.outcomes) == {"right"}, sendings.outcomes
        assert {one["name"] for one in cluster.controller_fleet()["instances"]} == {
            "encode-0", "prefill-0", "prefill-1", "decode-0"
        }  # fmt: skip
    assert not cluster.leftovers()
