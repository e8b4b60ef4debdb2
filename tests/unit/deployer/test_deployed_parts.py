"""What single objects are for: environment, rights, storage, names, what changes when."""

from __future__ import annotations

import json

from deployments import (
    by_identity,
    container_of,
    deploying,
    epd_guide,
    example,
    hybrid_env,
    hybrid_guide,
    loaded,
    rendered,
    role_of,
    variables_of,
)
from fleets import FLEETS

from changed_config import with_changes
from pymotor.controller.kubernetes_lease import KubernetesLease
from pymotor.deployer.naming import controller_lease
from pymotor.deployer.storage import mounts_of


def multi(**keys):
    return deploying(hybrid_guide(), deploy_mode="multi_deployment", **keys)


def test_the_environment_goes_through_a_config_map_as_it_is(tmp_path):
    wild = {"motor_common_env": {"WORDS": "\"; reboot; echo '\n\\", "YES": True, "NUMBER": 3}}

    objects = by_identity(rendered(tmp_path, multi(), wild))

    data = objects["ConfigMap/motor-env-union"]["data"]
    assert data == {"WORDS": "\"; reboot; echo '\n\\", "YES": "true", "NUMBER": "3"}
    assert container_of(objects["Deployment/vllm-u0"])["envFrom"] == [{"configMapRef": {"name": "motor-env-union"}}]
    assert container_of(objects["Deployment/vllm-u0"])["command"] == ["/bin/bash", "/etc/pymotor/config/boot.sh"]


def test_each_part_has_its_own_variables(tmp_path):
    objects = by_identity(rendered(tmp_path, multi(), hybrid_env()))

    assert "HCCL_BUFFSIZE" in objects["ConfigMap/motor-env-union"]["data"]
    assert "HCCL_BUFFSIZE" not in objects["ConfigMap/motor-env-controller"]["data"]


def test_parts_find_each_other_in_both_modes(tmp_path):
    for user in (hybrid_guide(), multi()):
        manifests = rendered(tmp_path, user)
        names = {f"{one['metadata']['name']}.mindie-motor.svc" for one in manifests if one["kind"] == "Service"}
        for one in manifests:
            if one["kind"] == "InferServiceSet":
                for role in one["spec"]["template"]["roles"]:
                    stem = f"-vllm-0-{role['name']}.mindie-motor.svc"
                    names |= {f"{service['name']}{stem}" for service in role.get("services", [])}
        engine = (
            role_of(manifests, "union")
            if user["motor_deploy_config"]["deploy_mode"] != "multi_deployment"
            else by_identity(manifests)["Deployment/vllm-u0"]
        )
        variables = variables_of(engine)
        assert variables["ROLE"] == "union"
        assert {value for name, value in variables.items() if name.endswith("_SERVICE")} <= names


def test_pods_of_one_instance_have_a_job_of_their_own(tmp_path):
    objects = by_identity(rendered(tmp_path, *FLEETS["pd_950_several_nodes_multi"]))
    wide = deploying(FLEETS["pd_950_several_nodes_multi"][0], deploy_mode="infer_service_set")

    assert variables_of(objects["Deployment/vllm-p0"])["JOB_NAME"] == "mindie-motor-p0"
    assert variables_of(objects["Deployment/vllm-d0"])["JOB_NAME"] == "mindie-motor"
    role = role_of(rendered(tmp_path, wide), "prefill")
    assert variables_of(role)["JOB_NAME"] == "mindie-motor-p$(INSTANCE_NUMBER)"
    assert role["spec"]["podManagementPolicy"] == "Parallel"
    assert role["metadata"]["annotations"]["sp-block"] == "16"


def test_only_the_controller_may_do_anything(tmp_path):
    manifests = rendered(tmp_path, multi())
    objects = by_identity(manifests)

    rules = [(one["kind"], one["metadata"].get("namespace"), one["rules"]) for one in manifests if "rules" in one]
    bound = {subject["name"] for one in manifests for subject in one.get("subjects", [])}

    assert bound == {"mindie-motor-controller"}
    lease = "pymotor-controller-master-lock"
    group = "coordination.k8s.io"
    assert rules == [
        (
            "Role",
            "mindie-motor",
            [
                {"apiGroups": [group], "resources": ["leases"], "verbs": ["create"]},
                {
                    "apiGroups": [group],
                    "resources": ["leases"],
                    "verbs": ["get", "update"],
                    "resourceNames": [lease],
                },
            ],
        ),
        ("ClusterRole", None, [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}]),
        ("Role", "kube-system", [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]}]),
    ]
    tokens = {
        name: one["spec"]["template"]["spec"]["automountServiceAccountToken"]
        for name, one in objects.items()
        if one["kind"] == "Deployment"
    }
    assert [name for name, mounted in tokens.items() if mounted] == ["Deployment/mindie-motor-controller"]


def test_the_lease_is_the_one_that_the_controller_takes(tmp_path, monkeypatch):
    (tmp_path / "namespace").write_text("x", encoding="utf-8")
    (tmp_path / "ca.crt").write_text("", encoding="utf-8")
    monkeypatch.setattr("pymotor.controller.kubernetes_lease._ACCOUNT", tmp_path)
    monkeypatch.setattr("ssl.create_default_context", lambda cafile: False)
    for key in ("/master_lock", "/Our/Lock_2", "/"):
        lease = KubernetesLease.in_cluster(key, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
        assert lease._name == controller_lease(key)


def test_no_right_is_asked_for_that_is_not_used(tmp_path):
    off = with_changes(multi(), {"motor_controller_config.fault_tolerance_config": {"enable_fault_tolerance": False}})

    assert not [one for one in rendered(tmp_path, off) if one["kind"].startswith("ClusterRole")]


def test_what_the_engine_names_is_mounted_and_nothing_else(tmp_path):
    user, _ = loaded(tmp_path, epd_guide())

    def seen(role: str) -> list[tuple[str, bool]]:
        return [(mount.path, mount.writable) for mount in mounts_of(user, role)]

    weights, media = ("/mnt/weight", False), ("/mnt/share/patch/media_path", False)
    assert seen("decode") == [weights, media]
    assert seen("encode") == [weights, media, ("/mnt/share/patch/ec_cache", True)] or set(seen("encode")) == {
        weights,
        media,
        ("/mnt/share/patch/ec_cache", True),
    }
    assert mounts_of(user, "encode")[0].volume()["hostPath"] == {"path": "/mnt/weight", "type": "Directory"}


def test_a_claim_serves_what_lies_in_it(tmp_path):
    user, _ = loaded(tmp_path, FLEETS["epd_claims_set"][0])

    found = [(mount.path, mount.claim, mount.writable) for mount in mounts_of(user, "encode")]

    assert sorted(found) == [("/mnt/share", "share", True), ("/mnt/weight", "weights", False)]


def test_a_coordinator_sees_weights_only_for_their_tokenizer(tmp_path):
    plain = by_identity(rendered(tmp_path, multi()))["Deployment/mindie-motor-coordinator"]
    affine = role_of(rendered(tmp_path, FLEETS["hybrid_pool_conductor_set"][0]), "coordinator")

    paths = [[mount["mountPath"] for mount in container_of(workload)["volumeMounts"]] for workload in (plain, affine)]
    assert ("/mnt/weight" in paths[0], "/mnt/weight" in paths[1]) == (False, True)


def test_restricted_unless_asked_otherwise(tmp_path):
    for part in ("mindie-motor-controller", "mindie-motor-coordinator", "vllm-u0"):
        workload = by_identity(rendered(tmp_path, multi()))[f"Deployment/{part}"]
        context = container_of(workload)["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert workload["spec"]["template"]["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    asked = {"engine_capabilities": ["IPC_LOCK"], "engine_seccomp_profile": "Unconfined"}
    workload = by_identity(rendered(tmp_path, multi(kubernetes_config=asked)))["Deployment/vllm-u0"]
    assert container_of(workload)["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}


def test_pods_are_made_anew_for_what_they_read_at_their_start(tmp_path):
    def template(user, env=None):
        return by_identity(rendered(tmp_path, user, env))["Deployment/vllm-u0"]["spec"]["template"]

    before = template(multi())

    assert template(multi(hybrid_instances_num=4)) == before
    assert template(with_changes(multi(), {"motor_coordinator_config.exception_config": {"max_retry": 2}})) == before
    assert template(with_changes(multi(), {"motor_engine_union_config.engine_config.max_model_len": 1})) != before
    assert template(multi(), {"motor_engine_union_env": {"A": "b"}}) != before
    assert template(multi(), {"motor_controller_env": {"A": "b"}}) == before


def test_the_configuration_arrives_as_it_was_written(tmp_path):
    for user, env in FLEETS.values():
        data = by_identity(rendered(tmp_path, user, env))["ConfigMap/motor-config"]["data"]
        assert json.loads(data["user_config.json"]) == user
        assert json.loads(data["env.json"]) == env


def test_pool_and_conductor_know_each_other(tmp_path):
    manifests = rendered(tmp_path, *FLEETS["hybrid_pool_conductor_set"])
    data = by_identity(manifests)["ConfigMap/motor-config"]["data"]

    master = "kvp-master-vllm-0-kv-pool.mindie-motor.svc:50088"
    assert json.loads(data["kv_cache_pool_config.json"])["master_server_address"] == master
    events = json.loads(data["kv_conductor_config.json"])["kvevent_instance"]["mooncake_master"]
    assert events == {"type": "Mooncake", "endpoint": master, "modelname": "qwen3-8B"}
    assert container_of(role_of(manifests, "kv-pool"))["args"] == [
        "--port=50088",
        "--eviction_high_watermark_ratio=0.9",
        "--eviction_ratio=0.1",
        "--default_kv_lease_ttl=11000",
    ]


def test_ports_follow_the_configuration(tmp_path):
    user = with_changes(
        multi(kubernetes_config={"coordinator_node_port": 32000}),
        {
            "motor_coordinator_config.api_config": {"coordinator_api_infer_port": 8000},
            "motor_controller_config.api_config": {"controller_api_port": 8001},
        },
    )
    objects = by_identity(rendered(tmp_path, user))

    (door,) = objects["Service/mindie-motor-coordinator-infer"]["spec"]["ports"]
    assert (door["port"], door["nodePort"]) == (8000, 32000)
    (api,) = objects["Service/mindie-motor-controller-service"]["spec"]["ports"]
    assert api["port"] == 8001


def test_a_client_that_comes_too_early_is_answered(tmp_path):
    door = by_identity(rendered(tmp_path, multi()))["Service/mindie-motor-coordinator-infer"]
    pair = role_of(rendered(tmp_path, FLEETS["pd_standby_set"][0]), "coordinator")

    assert door["spec"]["publishNotReadyAddresses"] is True
    assert "publishNotReadyAddresses" not in pair["services"][0]["spec"]


def test_the_token_is_made_once(tmp_path):
    secret = by_identity(rendered(tmp_path, multi(), cluster_token="0123456789abcdef"))["Secret/motor-cluster-token"]

    assert secret["metadata"]["annotations"] == {"pymotor/create-only": "true"}
    assert secret["data"] == {"token": "MDEyMzQ1Njc4OWFiY2RlZg=="}


def test_without_a_boot_script_the_images_own_starts_pods(tmp_path):
    from pymotor.deployer.render import RenderOptions, render

    objects = by_identity(render(*loaded(tmp_path, multi()), RenderOptions()))

    assert container_of(objects["Deployment/vllm-u0"])["command"][1].startswith("/tmp/motor/examples/deployer/")
    assert "boot.sh" not in objects["ConfigMap/motor-config"]["data"]


def test_an_engine_has_time_to_finish_and_a_coordinator_to_be_forgotten(tmp_path):
    objects = by_identity(rendered(tmp_path, multi(kubernetes_config={"drain_seconds": 200})))
    engine, door = objects["Deployment/vllm-u0"], objects["Deployment/mindie-motor-coordinator"]

    assert container_of(engine)["args"][-2:] == ["--grace", "200"]
    assert engine["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 200
    assert container_of(door)["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]


def test_the_examples_can_be_deployed(tmp_path):
    for name in ("vllm", "vllm/epd", "vllm/pd_hybrid", "sim/epd", "sim/pd_hybrid"):
        assert rendered(tmp_path, example(name))
