"""Certificates: Secrets of files that fit together, mounted so that new ones arrive without a restart."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from deployments import by_identity, container_of, deploying, hybrid_guide, loaded, rendered
from fleets import FLEETS, IMAGE

from another_user import reachable_directory, run_unprivileged
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
    over = ["x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
    openssl(directory, *over, "-out", "old.crt", "-days", "-1")
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
        ({"server.key": "other.key"}, r"key_file \S+/server.key is not the key of cert_file"),
        ({"ca.crt": "stranger.crt"}, r"cert_file \S+/server.crt is not vouched for by the authority of ca_file"),
        ({"ca.crt": "server.key"}, r"ca_file \S+/ca.crt holds no certificate of an authority"),
        ({"server.crt": "server.csr"}, r"cert_file \S+/server.crt holds no certificate in PEM form"),
        ({"server.crt": "old.crt"}, r"cert_file \S+/server.crt has expired; make a new one"),
    ],
)
def test_files_that_do_not_fit_are_refused(home, made, swap, words):
    for name, other in swap.items():
        shutil.copy(made / other, home / "tls" / name)

    found, told = problems(home, speaking())

    assert len(told) == 1
    assert re.match(f"infer_tls_config: {words}", told[0]), told
    assert found.contents == {}


def test_a_key_that_everybody_may_read_becomes_no_secret(home):
    (home / "tls" / "server.key").chmod(0o644)

    found, told = problems(home, speaking())

    assert told == [
        f"infer_tls_config: key_file {home}/tls/server.key is open to every user of this machine; close it: "
        f"chmod o= {home}/tls/server.key"
    ]
    assert found.contents == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_a_key_that_this_user_may_not_read_is_told(made):
    user = speaking()
    with reachable_directory() as home:
        (home / "tls").mkdir()
        for name in ("ca.crt", "server.crt", "server.key"):
            shutil.copy(made / name, home / "tls" / name)
        (home / "tls").chmod(0o755)
        for name in ("ca.crt", "server.crt"):
            (home / "tls" / name).chmod(0o644)
        written(home, user)
        ended = run_unprivileged("deploy", "--config_dir", home, "--dry-run")
    assert ended.returncode == 1
    assert "server.key cannot be read: Permission denied; check the path and who may read it" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_plane_without_its_own_files_does_not_disturb_another(home):
    """Both name one authority; of the second plane the rest comes from elsewhere."""
    planes = {
        "infer_tls_config": {"enable_tls": True, **FILES},
        "mgmt_tls_config": {"enable_tls": True, **FILES, "key_file": "elsewhere.key"},
    }
    found, told = problems(home, deploying(hybrid_guide(), image_name=IMAGE, tls_config=planes), dry_run=True)
    assert told == []
    assert set(found.contents) == {"infer_tls_config"}


def test_a_key_with_a_password_needs_it(home, made):
    encrypt = ["ec", "-in", str(made / "server.key"), "-aes256", "-passout", "pass:word"]
    openssl(home, *encrypt, "-out", str(home / "tls" / "server.key"))
    (home / "tls" / "word").write_text("word\n", encoding="utf-8")
    (home / "tls" / "word").chmod(0o600)

    assert problems(home, speaking(passwd_file="tls/word"))[1] == []
    assert problems(home, speaking())[1][0].endswith("write it into a file and name that passwd_file")


def test_files_that_are_missing(home):
    (home / "tls" / "server.key").unlink()

    assert problems(home, speaking())[1] == ["key_file: this machine has no such file, so no Secret can be made of it"]
    assert problems(home, speaking(), dry_run=True)[1] == []


def test_a_name_that_no_file_can_have(home):
    assert problems(home, speaking(key_file="n" * 300))[1] == [
        "key_file: this machine has no such file, so no Secret can be made of it"
    ]


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
