"""Certificates: Secrets of files that fit together, mounted so that new ones arrive without a restart."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from deployments import by_identity, container_of, deploying, hybrid_guide, loaded, rendered
from fleets import FLEETS, IMAGE

from changed_config import with_changes
from pymotor.deployer.naming import COORDINATOR, KV_CONDUCTOR
from pymotor.deployer.preparing import prepare
from pymotor.deployer.tls import certificates
from pymotor.deployer.tls_files import read_tls_files

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")

FILES = {"ca_file": "tls/ca.crt", "cert_file": "tls/server.crt", "key_file": "tls/server.key", "passwd_file": ""}


def openssl(directory: Path, *words: str) -> None:
    subprocess.run([OPENSSL or "openssl", *words], cwd=directory, check=True, capture_output=True)


def authority(directory: Path, name: str) -> None:
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(directory, "req", "-x509", *curve, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}")


def signed(directory: Path, name: str, by: str) -> None:
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(directory, "req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    words = ["x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.crt", "-CAkey", f"{by}.key", "-CAcreateserial"]
    openssl(directory, *words, "-out", f"{name}.crt", "-days", "2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("made")
    for name in ("ca", "stranger"):
        authority(directory, name)
    signed(directory, "server", "ca")
    signed(directory, "other", "stranger")
    return directory


@pytest.fixture
def home(tmp_path, made):
    place = tmp_path / "tls"
    place.mkdir()
    for name in ("ca.crt", "server.crt", "server.key"):
        shutil.copy(made / name, place / name)
    return tmp_path


def speaking(**more):
    return deploying(
        hybrid_guide(), image_name=IMAGE, tls_config={"infer_tls_config": {"enable_tls": True, **FILES, **more}}
    )


def problems(home, user, dry_run=False):
    config, _ = loaded(home, user)
    found = read_tls_files(config, "user_config.json", home, dry_run=dry_run)
    return found, [f"{problem.path.rpartition('.')[2]}: {problem.message}" for problem in found.problems]


def test_files_that_fit_become_a_secret(home):
    found, told = problems(home, speaking())

    assert told == []
    assert set(found.contents["infer_tls_config"]) == {"ca.crt", "tls.crt", "tls.key"}
    objects = by_identity(rendered(home, speaking(), tls_files=found.contents))
    assert set(objects["Secret/motor-tls-infer"]["data"]) == {"ca.crt", "tls.crt", "tls.key"}


@pytest.mark.parametrize(
    ("swap", "words"),
    [
        ({"server.key": "other.key"}, "key_file: it does not fit cert_file"),
        ({"ca.crt": "stranger.crt"}, "cert_file: the authority of ca_file does not vouch for it"),
        ({"ca.crt": "server.key"}, "ca_file: no certificate of an authority"),
        ({"server.crt": "server.csr"}, "key_file: it does not fit cert_file"),
    ],
)
def test_files_that_do_not_fit_are_refused(home, made, swap, words):
    for name, other in swap.items():
        shutil.copy(made / other, home / "tls" / name)

    _, told = problems(home, speaking())

    assert any(one.startswith(words) for one in told), told


def test_a_key_with_a_password_needs_it(home, made):
    encrypt = ["ec", "-in", str(made / "server.key"), "-aes256", "-passout", "pass:word"]
    openssl(home, *encrypt, "-out", str(home / "tls" / "server.key"))
    (home / "tls" / "word").write_text("word\n", encoding="utf-8")

    assert problems(home, speaking(passwd_file="tls/word"))[1] == []
    assert problems(home, speaking())[1][0].startswith("key_file: it does not fit")


def test_files_that_are_missing(home):
    (home / "tls" / "server.key").unlink()

    assert problems(home, speaking())[1] == ["key_file: this machine has no such file, so no Secret can be made of it"]
    assert problems(home, speaking(), dry_run=True)[1] == []


def test_nothing_is_read_where_the_user_names_a_secret(tmp_path):
    user = with_changes(
        speaking(), {"motor_deploy_config.kubernetes_config": {"tls_secrets": {"infer_tls_config": "door"}}}
    )

    prepared = prepare(*written(tmp_path, user), tmp_path, dry_run=False)

    assert prepared.ok, [str(problem) for problem in prepared.problems]
    assert [one for one in prepared.manifests if one["kind"] == "Secret" and "tls" in one["metadata"]["name"]] == []


def test_two_planes_with_one_name_and_two_files(home):
    both = {plane: {"enable_tls": True, **FILES} for plane in ("infer_tls_config", "mgmt_tls_config")}
    user = deploying(hybrid_guide(), tls_config=both)
    assert problems(home, user)[1] == []


def test_certificates_are_mounted_as_directories(tmp_path):
    workload = by_identity(rendered(tmp_path, *FLEETS["hybrid_tls_multi"]))["Deployment/vllm-u0"]
    volumes = {one["name"]: one for one in workload["spec"]["template"]["spec"]["volumes"]}
    mounts = {one["name"]: one for one in container_of(workload)["volumeMounts"]}

    assert not [mount for mount in mounts.values() if "subPath" in mount]
    assert mounts["tls-0"]["mountPath"] == "/etc/pymotor/certificates"
    (source,) = volumes["tls-0"]["projected"]["sources"]
    assert source["secret"]["name"] == "door"
    beside = [one["secret"] for one in volumes["config"]["projected"]["sources"] if "secret" in one]
    needed = {item["path"] for one in beside if not one.get("optional") for item in one["items"]}
    assert {one["name"] for one in beside} == {"inside"}
    assert needed == {"security/mgmt/cert/ca.crt", "security/mgmt/cert/server.crt", "security/mgmt/keys/server.key"}


def asked(objects, workload, name="readinessProbe"):
    return container_of(objects[workload])[name]


def test_a_probe_shows_a_certificate_where_one_is_required(tmp_path):
    objects = by_identity(rendered(tmp_path, *FLEETS["hybrid_tls_multi"]))
    for workload, port in (("Deployment/mindie-motor-coordinator", "1026"), ("Deployment/vllm-u0", "1026")):
        container = container_of(objects[workload])
        assert container["readinessProbe"]["exec"]["command"] == ["pymotor", "probe", "--any-name", port, "/readiness"]
        variables = {one["name"]: one.get("value") for one in container["env"]}
        assert variables["PYMOTOR_TLS_KEY_FILE"] == "/etc/pymotor/config/security/mgmt/keys/server.key"


def test_kubelet_asks_itself_where_no_certificate_is_required(tmp_path):
    user, env = FLEETS["hybrid_tls_multi"]
    user = with_changes(user, {"motor_deploy_config.tls_config.mgmt_tls_config.client_auth": "optional"})
    probe = asked(by_identity(rendered(tmp_path, user, env)), "Deployment/mindie-motor-coordinator")
    assert probe["httpGet"] == {"path": "/readiness", "port": "management", "scheme": "HTTPS"}


def test_parts_have_the_certificates_of_their_planes(tmp_path):
    planes = {plane: {"enable_tls": True} for plane in ("mgmt_tls_config", "observability_tls_config")}
    user, env = FLEETS["hybrid_pool_conductor_set"]
    user = with_changes(user, {"motor_deploy_config.tls_config": planes})
    config, _ = loaded(tmp_path, user, env)
    mounted = {part: {one.plane for one in certificates(config, part)} for part in (COORDINATOR, KV_CONDUCTOR)}
    # Both planes name the same files, which are the first one's.
    assert mounted == {COORDINATOR: {"mgmt_tls_config"}, KV_CONDUCTOR: {"mgmt_tls_config"}}
    observed = with_changes(user, {"motor_deploy_config.tls_config.mgmt_tls_config.enable_tls": False})
    config, _ = loaded(tmp_path, observed, env)
    assert {one.plane for one in certificates(config, COORDINATOR)} == {"observability_tls_config"}
    assert list(certificates(config, KV_CONDUCTOR)) == []


def written(directory, user):
    path = directory / "user_config.json"
    path.write_text(json.dumps(user), encoding="utf-8")
    return path, None
