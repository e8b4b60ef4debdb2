"""A collector that is gone, refuses or hangs costs traces, which are counted, and never a request."""

from __future__ import annotations

from collections.abc import Callable

import plain_http
import pytest
from answers import ask_one
from fleet_under_test import Engines, Gateway
from images import text_chat
from processes import wait_until

from free_ports import free_port
from otlp_collector import Collector

MakeGateway = Callable[..., Gateway]
OFTEN = {"OTEL_BSP_SCHEDULE_DELAY": "20"}
SOON_GIVEN_UP = {**OFTEN, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}


def traces(gateway: Gateway, outcome: str) -> float:
    """`pymotor_traces_total` of an outcome."""
    text = plain_http.get(f"{gateway.observability_url}/metrics", timeout=60).text
    sample = f'pymotor_traces_total{{outcome="{outcome}"}} '
    return sum(float(line.removeprefix(sample)) for line in text.splitlines() if line.startswith(sample))


def ask(gateway: Gateway, times: int = 5) -> None:
    for _ in range(times):
        assert ask_one(gateway.url, text_chat(max_tokens=2)).status == 200


def test_what_is_exported_is_counted(engines: Engines, make_gateway: MakeGateway) -> None:
    with Collector() as collector:
        gateway = make_gateway(engines, "union-0", config={"tracer_config": collector.config()}, environment=OFTEN)
        ask(gateway)
        wait_until(lambda: traces(gateway, "exported") == 5, "all are exported")
        assert len(collector.traces()) == 5


@pytest.mark.parametrize("how", ["gone", "refuses", "hangs"])
def test_a_collector_that_takes_nothing(engines: Engines, make_gateway: MakeGateway, how: str) -> None:
    with Collector() as collector:
        config: dict[str, object] = collector.config()
        if how == "gone":
            config["endpoint"] = f"http://user:the-password@127.0.0.1:{free_port()}"
        else:
            collector.behave(**({"status": 400} if how == "refuses" else {"hang": True}))
        gateway = make_gateway(engines, "union-0", config={"tracer_config": config}, environment=SOON_GIVEN_UP)
        ask(gateway)
        wait_until(lambda: traces(gateway, "export_failed") == 5, "all are counted as dropped")
        ask(gateway)
        wait_until(lambda: traces(gateway, "export_failed") == 10, "all are counted as dropped")
        assert gateway.log().count("does not take traces") == 1
        assert "the-password" not in gateway.log()
        assert "Failed to export" not in gateway.log()
        assert traces(gateway, "exported") == 0
        if how == "refuses":
            collector.behave()

            def is_taken() -> bool:
                ask(gateway, 1)
                return traces(gateway, "exported") >= 1

            wait_until(is_taken, "it takes traces again")
            assert "takes traces again" in gateway.log()


def test_the_end_of_a_worker_sends_what_waits(engines: Engines, make_gateway: MakeGateway) -> None:
    with Collector() as collector:
        never = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        gateway = make_gateway(engines, "union-0", config={"tracer_config": collector.config()}, environment=never)
        ask(gateway)
        assert collector.spans() == []
        gateway.close()
        assert len(collector.traces()) == 5


def test_a_collector_that_hangs_does_not_hold_up_the_end(engines: Engines, make_gateway: MakeGateway) -> None:
    with Collector() as collector:
        collector.behave(hang=True)
        gateway = make_gateway(engines, "union-0", config={"tracer_config": collector.config()}, environment=OFTEN)
        ask(gateway)
        gateway.close()
        assert "killed" not in gateway.log()
        assert "SIGKILL" not in gateway.log()


def test_resource_and_headers_by_the_environment(engines: Engines, make_gateway: MakeGateway) -> None:
    with Collector() as collector:
        environment = {
            **OFTEN,
            "OTEL_SERVICE_NAME": "my-gateway",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20the-collectors-key",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        }
        gateway = make_gateway(
            engines, "union-0", config={"tracer_config": collector.config()}, environment=environment
        )
        ask(gateway, 1)
        wait_until(collector.spans, "the trace is there")
        resource = collector.spans()[0]["resource"]
        assert resource["service.name"] == "my-gateway"
        assert resource["deployment.environment"] == "test"
        assert resource["service.instance.id"].endswith("worker-0")
        assert collector.headers()["authorization"] == "Bearer the-collectors-key"
        assert "the-collectors-key" not in gateway.log()


def test_switched_off_by_the_environment(engines: Engines, make_gateway: MakeGateway) -> None:
    with Collector() as collector:
        off = {**OFTEN, "OTEL_SDK_DISABLED": "true"}
        gateway = make_gateway(engines, "union-0", config={"tracer_config": collector.config()}, environment=off)
        ask(gateway)
        assert "pymotor_traces_total" not in plain_http.get(f"{gateway.observability_url}/metrics", timeout=60).text


def test_ratios_change_while_it_runs(engines: Engines, make_gateway: MakeGateway) -> None:
    with Collector() as collector:
        gateway = make_gateway(
            engines, "union-0", config={"tracer_config": collector.config(root_sampling_rate=0)}, environment=OFTEN
        )
        ask(gateway)
        gateway.configure(tracer_config=collector.config(root_sampling_rate=1))
        ask(gateway, 2)
        wait_until(lambda: traces(gateway, "exported") == 2, "the later ones are exported")


@pytest.mark.parametrize(
    ("endpoint", "told"), [("collector:4318", "it is no http or https URL"), ("http://collector:port", "it is no URL")]
)
def test_what_cannot_be_done_is_told_at_the_start(engines: Engines, endpoint: str, told: str) -> None:
    refused = Gateway(engines, ["union-0"], config={"tracer_config": {"endpoint": endpoint}})
    with pytest.raises(RuntimeError, match=told), refused:
        pass


def test_the_environment_is_looked_at_before_the_first_export(engines: Engines) -> None:
    environment = {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere/ca.pem", "OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}
    config = {"tracer_config": {"endpoint": "https://collector:4318"}}
    refused = Gateway(engines, ["union-0"], config=config, environment=environment)
    told = r"OTEL_EXPORTER_OTLP_CERTIFICATE names cannot be used: .*No such file"
    with pytest.raises(RuntimeError, match=told), refused:
        pass
    assert "OTEL_EXPORTER_OTLP_TIMEOUT is no number of seconds" in refused.log()


def test_another_protocol_is_told_and_not_spoken(engines: Engines, make_gateway: MakeGateway) -> None:
    with Collector() as collector:
        asked = {**OFTEN, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}
        gateway = make_gateway(engines, "union-0", config={"tracer_config": collector.config()}, environment=asked)
        assert "traces are sent by http/protobuf all the same" in gateway.log()
        ask(gateway, 1)
        wait_until(collector.spans, "the trace is there")
