"""What the environment says of the collector and of who speaks; what is wrong with it is told at the start."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

import certificates
from pymotor.config import Problem, UserConfig, load_config
from pymotor.coordinator.own_checks import check_files, check_for_elsewhere, check_settings
from pymotor.coordinator.tracing.checks import TRACES_TO, check_tracing, check_tracing_files
from pymotor.coordinator.tracing.collector_settings import (
    DELAY,
    SECONDS,
    CollectorSettings,
    collector_settings,
    traces_url,
)
from pymotor.coordinator.tracing.proxies import proxy_for
from pymotor.coordinator.tracing.resource import resource

EXAMPLE = Path(__file__).parents[3] / "examples/infer_engines/sim/epd/user_config.json"
SECRET = "the-collectors-key"


def read(environment: dict[str, str], endpoint: str = "http://collector:4318") -> CollectorSettings:
    return collector_settings(endpoint, environment)[0]


def told(directory: Path, environment: dict[str, str], endpoint: str = "https://collector") -> list[tuple[str, str]]:
    """Severity and words of each problem."""
    config = json.loads(EXAMPLE.read_text())
    config["motor_coordinator_config"] = {"tracer_config": {"endpoint": endpoint}}
    path = directory / "user_config.json"
    path.write_text(json.dumps(config))
    loaded = load_config(path, None)
    assert loaded.user is not None
    file = "user_config.json"
    problems = [
        *check_tracing(loaded.user, file, environment),
        *check_tracing_files(loaded.user, file, environment),
    ]
    assert not any(SECRET in str(problem) for problem in problems)
    return [(problem.severity, problem.message) for problem in problems]


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("https://[::1]/otlp/v1/traces", "https://[::1]/otlp/v1/traces"),
    ],
)
def test_the_path_may_be_left_out(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url


def test_nothing_is_said() -> None:
    found = read({})
    assert (found.seconds, found.compression, found.headers, found.proxy) == (SECONDS, "none", (), "")
    assert found.where == "http://collector:4318"
    assert read({}, "https://collector/x").where == "https://collector:443"
    assert read({}, "http://[::1]:4318").where == "http://[::1]:4318"


def test_what_is_for_traces_goes_before_what_is_for_all() -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "2.5",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=1,b=2",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "c=3",
    }
    found = read(environment)
    assert (found.seconds, found.compression, found.headers) == (2.5, "gzip", ((b"c", b"3"),))


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        ("api-key=abc", {b"api-key": b"abc"}),
        (" Api-Key = abc , other = x=y ,", {b"api-key": b"abc", b"other": b"x=y"}),
        ("authorization=Bearer%20x", {b"authorization": b"Bearer x"}),
        ("authorization=Bearer x", {b"authorization": b"Bearer x"}),
        ("authorization=Bearer x%20y", {b"authorization": b"Bearer x%20y"}),
        ("empty=", {b"empty": b""}),
        ("a=1,a=2", {b"a": b"2"}),
    ],
)
def test_headers(value: str, headers: dict[bytes, bytes]) -> None:
    assert dict(read({"OTEL_EXPORTER_OTLP_HEADERS": value}).headers) == headers


@pytest.mark.parametrize("entry", [SECRET, f"={SECRET}", f"a b={SECRET}", f"x={SECRET}%0d%0aInjected:1", f"ü={SECRET}"])
def test_what_is_no_header_is_left_out_and_told_without_it(tmp_path: Path, entry: str) -> None:
    environment = {"OTEL_EXPORTER_OTLP_HEADERS": f"good=1,{entry}"}
    assert read(environment).headers == ((b"good", b"1"),)
    ((severity, message),) = told(tmp_path, environment)
    assert severity == "warning"
    assert "entry 2 of OTEL_EXPORTER_OTLP_HEADERS is no header" in message


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf", "1e9", "10s"])
def test_a_time_that_is_none(tmp_path: Path, value: str) -> None:
    environment = {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": value}
    assert read(environment).seconds == SECONDS
    ((severity, message),) = told(tmp_path, environment)
    assert severity == "warning"
    assert message.startswith("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT is no number of seconds")


def test_a_time_that_may_be_meant_as_milliseconds(tmp_path: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_TIMEOUT": "10000"}
    assert read(environment).seconds == 10_000
    ((severity, message),) = told(tmp_path, environment)
    assert (severity, "not milliseconds" in message) == ("warning", True)


def test_a_compression_that_is_none(tmp_path: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}
    assert read(environment).compression == "none"
    assert read({"OTEL_EXPORTER_OTLP_COMPRESSION": "GZIP"}).compression == "gzip"
    ((severity, message),) = told(tmp_path, environment)
    assert (severity, "OTEL_EXPORTER_OTLP_COMPRESSION" in message) == ("warning", True)


@pytest.mark.parametrize(
    "proxy", ["socks5://me:the-collectors-key@proxy:1080", "http://[::1", "http://:80", "http://pro..xy"]
)
def test_a_proxy_that_cannot_be_used(tmp_path: Path, proxy: str) -> None:
    ((severity, message),) = told(tmp_path, {"HTTPS_PROXY": proxy})
    assert (severity, "https_proxy" in message) == ("warning", True)
    assert told(tmp_path, {"HTTPS_PROXY": proxy, "NO_PROXY": "collector"}) == []


def test_good_words(tmp_path: Path) -> None:
    good = {
        "OTEL_EXPORTER_OTLP_TIMEOUT": "5",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{SECRET}",
        "OTEL_RESOURCE_ATTRIBUTES": "a=b",
        "https_proxy": f"http://me:{SECRET}@proxy:3128",
    }
    assert told(tmp_path, good) == []


# -- certificates


@pytest.mark.parametrize("name", ["CERTIFICATE", "CLIENT_CERTIFICATE"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_used(tmp_path: Path, name: str, content: str | None) -> None:
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_text(content)
    environment = {f"OTEL_EXPORTER_OTLP_{name}": str(path)}
    ((severity, message),) = told(tmp_path, environment)
    assert severity == "error"
    assert f"OTEL_EXPORTER_OTLP_{name} names cannot be used" in message
    # Nobody reads them where there is no TLS.
    assert told(tmp_path, environment, "http://collector") == []
    for_traces = {f"OTEL_EXPORTER_OTLP_TRACES_{name}": str(path)}
    ((_, message),) = told(tmp_path, for_traces)
    assert f"OTEL_EXPORTER_OTLP_TRACES_{name} names cannot be used" in message


def test_a_key_without_its_certificate(tmp_path: Path) -> None:
    ((severity, message),) = told(tmp_path, {"OTEL_EXPORTER_OTLP_CLIENT_KEY": "key.pem"})
    assert severity == "warning"
    assert message.startswith("OTEL_EXPORTER_OTLP_CLIENT_KEY is set and no certificate")


def asked_where(endpoint: str = "https://collector:4318") -> UserConfig:
    return UserConfig.model_validate({"motor_coordinator_config": {"tracer_config": {"endpoint": endpoint}}})


def of_tracing(problems: Iterable[Problem]) -> list[Problem]:
    return [one for one in problems if one.path == TRACES_TO]


def test_a_file_that_another_machine_may_have_is_a_warning_before_and_an_error_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    environment = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(path)}
    user = asked_where()
    (before,) = of_tracing(check_for_elsewhere(user, "f.json", environment))
    (start,) = of_tracing(check_files(user, "f.json", environment))
    assert (before.severity, start.severity) == ("warning", "error")
    assert before.value == str(path)
    path.write_text("no certificate")
    (before,) = of_tracing(check_for_elsewhere(user, "f.json", environment))
    assert before.severity == "error"


def test_files_are_no_matter_of_live_changes(tmp_path: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem")}
    assert of_tracing(check_settings(asked_where(), "f.json", environment)) == []


def test_nothing_is_checked_where_tracing_is_turned_off(tmp_path: Path) -> None:
    environment = {
        "OTEL_SDK_DISABLED": " TRUE",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem"),
    }
    assert told(tmp_path, environment) == []
    assert told(tmp_path, environment, "no URL") == []


@pytest.mark.parametrize(
    "endpoint",
    [
        f"http://user:{SECRET}@collector:4317",
        f"http://user:{SECRET}@collector:port",
        f"http://user:x/{SECRET}@collector",
        f"ftp://user:{SECRET}@collector",
        f"user:{SECRET}@collector:4317",
        f"http://collector:4317/?key={SECRET}",
        f"http://[::1/?key={SECRET}",
    ],
)
def test_passwords_are_not_told(tmp_path: Path, endpoint: str) -> None:
    # See `told`.
    ((_, message),) = told(tmp_path, {}, endpoint)
    assert SECRET not in message


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://col..lector:4318",
        f"http://{'a' * 300}:4318",
        "http://xn--ü:4318",
        "http://collector:4318/\x7f",
        "http://[v1.a]:4318",
    ],
)
def test_urls_that_nobody_can_ask(tmp_path: Path, endpoint: str) -> None:
    ((severity, message),) = told(tmp_path, {}, endpoint)
    assert severity == "error"
    assert message.startswith("it is no URL")


@pytest.mark.parametrize(
    "endpoint", ["http://collector.ns.svc.:4318", "http://my_collector", "http://ü.de", "http://[::1]"]
)
def test_urls_that_can_be_asked(tmp_path: Path, endpoint: str) -> None:
    assert told(tmp_path, {}, endpoint) == []


@pytest.mark.parametrize(
    "name",
    ["content-length", "Transfer-Encoding", "host", "connection", "content-encoding", "content-type"],
)
def test_headers_that_are_not_the_environments(tmp_path: Path, name: str) -> None:
    environment = {"OTEL_EXPORTER_OTLP_HEADERS": f"good=1,{name}=5"}
    assert read(environment).headers == ((b"good", b"1"),)
    ((severity, message),) = told(tmp_path, environment)
    assert (severity, name.lower() in message) == ("warning", True)


def test_the_time_between_exports(tmp_path: Path) -> None:
    assert read({}).delay == DELAY
    assert read({"OTEL_BSP_SCHEDULE_DELAY": " 50"}).delay == 0.05
    for value in ("-1", "soon", "3600001", "9" * 5000, "٣"):
        environment = {"OTEL_BSP_SCHEDULE_DELAY": value}
        assert read(environment).delay == DELAY
        ((severity, message),) = told(tmp_path, environment)
        assert (severity, "OTEL_BSP_SCHEDULE_DELAY" in message) == ("warning", True)


def test_authorities_of_the_machine_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    ((severity, message),) = told(tmp_path, {})
    assert (severity, "what SSL_CERT_FILE names cannot be used" in message) == ("error", True)


@pytest.mark.skipif(certificates.OPENSSL is None, reason="there is no openssl here")
def test_a_key_that_needs_a_password_is_not_asked_for(tmp_path: Path) -> None:
    authority = certificates.make_ca(tmp_path / "ca")
    locked = certificates.make_certificate(authority, tmp_path, "locked", password="pass-word")
    other = certificates.make_certificate(authority, tmp_path, "other")
    shown = {"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(locked.cert_file)}
    for key in (locked.key_file, other.key_file):
        named = {**shown, "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY": str(key)}
        ((severity, message),) = told(tmp_path, named)
        assert severity == "error"
        assert "what OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY names cannot be used" in message
    good = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(authority.ca_file),
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(other.cert_file),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(other.key_file),
    }
    assert told(tmp_path, good) == []


# -- proxies


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("http://collector:4318", {}, ""),
        ("http://collector:4318", {"http_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ("http://collector:4318", {"HTTP_PROXY": "proxy:3128"}, "http://proxy:3128"),
        ("http://collector:4318", {"http_proxy": "http://a", "HTTP_PROXY": "http://b"}, "http://a"),
        ("http://collector:4318", {"https_proxy": "http://proxy"}, ""),
        ("https://collector", {"https_proxy": "http://proxy"}, "http://proxy"),
        ("https://collector", {"all_proxy": "http://proxy", "http_proxy": "http://other"}, "http://proxy"),
    ],
)
def test_proxies(url: str, environment: dict[str, str], proxy: str) -> None:
    assert proxy_for(url, environment) == proxy


@pytest.mark.parametrize(
    ("url", "exempt", "direct"),
    [
        ("http://collector:4318", "collector", True),
        ("http://collector:4318", "other, collector ,", True),
        ("http://Collector.ns.svc:4318", "ns.svc", True),
        ("http://collector.ns.svc:4318", ".svc", True),
        ("http://collector.ns.svc:4318", "tor.ns.svc", False),
        ("http://collector:4318", "*", True),
        ("http://collector:4318", "collector:4318", True),
        ("http://collector:4318", "collector:80", False),
        ("http://10.1.2.3:4318", "10.0.0.0/8", True),
        ("http://11.1.2.3:4318", "10.0.0.0/8", False),
        ("http://10.1.2.3:4318", "10.1.2.3", True),
        ("http://10.1.2.3:4318", "10.1.2.3:4318", True),
        ("http://[fd00::1]:4318", "fd00::/8", True),
        ("http://[fd00::1]:4318", "[fd00::1]", True),
        ("http://[fd00::1]:4318", "[fd00::1]:4318", True),
        ("http://[fd00::1]:4318", "10.0.0.0/8", False),
        ("http://collector:4318", "", False),
        ("http://collector:4318", "collector:04318", True),
        ("http://collector:4318", "c:,collector:" + "9" * 5000, False),
    ],
)
def test_whom_no_proxy_is_for(url: str, exempt: str, direct: bool) -> None:
    assert (proxy_for(url, {"http_proxy": "http://proxy", "NO_PROXY": exempt}) == "") is direct


# -- who speaks


def test_who_speaks() -> None:
    found = resource(3, {})
    assert found["service.name"] == "pymotor-coordinator"
    assert str(found["service.instance.id"]).endswith("-worker-3")
    assert found["telemetry.sdk.language"] == "python"
    assert found["telemetry.sdk.name"] == "pymotor"
    assert found["telemetry.sdk.version"]


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_SERVICE_NAME": ""}, "pymotor-coordinator"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=yours"}, "yours"),
        ({"OTEL_SERVICE_NAME": "mine", "OTEL_RESOURCE_ATTRIBUTES": "service.name=yours"}, "mine"),
    ],
)
def test_the_services_name(environment: dict[str, str], name: str) -> None:
    assert resource(0, environment)["service.name"] == name


def test_attributes_of_the_environment(tmp_path: Path) -> None:
    environment = {"OTEL_RESOURCE_ATTRIBUTES": " a = b%2Cc , d=e=f,broken,=x,, service.instance.id=one"}
    found = resource(0, environment)
    assert (found["a"], found["d"]) == ("b,c", "e=f")
    assert "broken" not in found
    assert str(found["service.instance.id"]).endswith("-worker-0")
    ((severity, message),) = told(tmp_path, environment)
    assert severity == "warning"
    assert message.endswith("OTEL_RESOURCE_ATTRIBUTES are left out that are no attributes: 2")
