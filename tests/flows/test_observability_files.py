"""Dashboard and alert rules speak of metrics and labels that a Coordinator really has."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plain_http
import pytest
import yaml
from answers import ask_one
from conductor_under_test import TOKEN, ConductorUnderTest
from fleet_under_test import Engines, Gateway
from images import text_chat, vision_chat
from prometheus_client.parser import text_string_to_metric_families

from free_ports import free_port
from pymotor.control_plane import TOKEN_VARIABLE
from pymotor.engines.metrics_names import METRIC_NAMES

FILES = Path(__file__).parents[2] / "examples" / "features" / "observability"
NAME = re.compile(r"\b(?:pymotor_|vllm:|sglang:)\w+")
SELECTED = re.compile(r"((?:pymotor_|vllm:)\w+)\{([^}]*)\}")
ADDED_UP = re.compile(r"\b(?:by|on) \(([^)]*)\)")
SGLANG = {name for names in METRIC_NAMES["sglang"].values() for name in names} | {
    "sglang:generation_tokens_total",
    "sglang:prompt_tokens_total",
}
"""The simulated engine speaks as vLLM does; these are SGLang's own names."""


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FILES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FILES / "dashboard.json").read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in alerts())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])


@pytest.fixture(scope="module")
def scraped(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names of samples with their labels, from what prometheus.yml scrapes."""
    jobs = yaml.safe_load((FILES / "prometheus.yml").read_text())["scrape_configs"]
    scrapes = [(job["static_configs"][0]["targets"][0], job.get("params", {}).get("type", [""])[0]) for job in jobs]
    assert scrapes == [("127.0.0.1:31017", ""), ("127.0.0.1:31017", "instance"), ("127.0.0.1:13333", "")]
    found: dict[str, set[str]] = defaultdict(set)
    port = free_port()
    config = {"scheduler_config": {"scheduler_type": "kv_cache_affinity"}}
    environment = {"PYMOTOR_KV_CONDUCTOR": f"127.0.0.1:{port}", TOKEN_VARIABLE: TOKEN}
    with (
        Gateway(engines, config=config, environment=environment, label="observed") as gateway,
        ConductorUnderTest(tmp_path_factory.mktemp("observed"), fleet=gateway.fleet_file, port=port) as conductor,
    ):
        for number in range(2):
            assert ask_one(gateway.url, vision_chat(800 + number, stream=True)).status == 200
        assert ask_one(gateway.url, text_chat("Long. " * 800, stream=True)).status == 200
        scraped_there = {"127.0.0.1:31017": gateway.observability_url, "127.0.0.1:13333": conductor.url}
        for target, view in scrapes:
            url = f"{scraped_there[target]}/metrics{f'?type={view}' if view else ''}"
            text = plain_http.get(url, timeout=60).raise_for_status().text
            for family in text_string_to_metric_families(text):
                # A counter that has counted nothing yet has no sample.
                found.setdefault(f"{family.name}_total" if family.type == "counter" else family.name, set())
                for sample in family.samples:
                    found[sample.name] |= set(sample.labels)
    return found


def test_every_metric_is_in_a_scrape(scraped: dict[str, set[str]]) -> None:
    named = {name for expression in expressions() for name in NAME.findall(expression)}
    assert len(named) > 25
    assert named - set(scraped) - SGLANG == set()


def test_every_label_is_one_of_its_metric(scraped: dict[str, set[str]]) -> None:
    every = set().union(*scraped.values())
    for expression in expressions():
        for name, matchers in SELECTED.findall(expression):
            # What has no sample yet has no labels to look at.
            labels = {match.split("=")[0].rstrip("!~") for match in matchers.split(",")}
            assert not scraped[name] or labels <= scraped[name], expression
        for names in ADDED_UP.findall(expression):
            wanted = {label.strip() for label in names.split(",")} - {"outcome", "reason", "endpoint", "state"}
            assert wanted <= every, expression


def test_dashboard_and_alerts_look_at_whether_the_conductor_is_asked() -> None:
    asked = "pymotor_kv_affinity_questions_total"
    assert any(asked in target["expr"] for panel in panels() for target in panel["targets"])
    (rule,) = [rule for rule in alerts() if asked in rule["expr"]]
    assert rule["for"] == "5m"
    assert "or vector(0)" in rule["expr"], "as long as nothing was answered there is no such sample"


def test_brackets_are_closed_and_legends_name_what_is_added_up() -> None:
    for expression in expressions():
        for left, right in ("()", "[]", "{}"):
            assert expression.count(left) == expression.count(right), expression
    for panel in panels():
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = {label.strip() for names in ADDED_UP.findall(target["expr"]) for label in names.split(",")}
            assert shown <= kept or " by " not in f" {target['expr']}", target


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((FILES / "dashboard.json").read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_alerts_say_what_to_do() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
