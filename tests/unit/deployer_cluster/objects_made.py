"""Small objects as the other half of the deployer makes them: a Controller and decode instances."""

from __future__ import annotations

import json
from typing import Any

from pymotor.deployer.naming import Manifest

NAMESPACE = "mindie-motor"


def config(decode: int = 2, mode: str = "multi_deployment", **sections: Any) -> dict[str, Any]:
    """A `user_config.json`."""
    deploy = {"deploy_mode": mode, "p_instances_num": 1, "d_instances_num": decode, "job_id": NAMESPACE}
    return {"motor_deploy_config": deploy, **sections}


def config_map(content: dict[str, Any]) -> Manifest:
    """`motor-config`."""
    data = {"user_config.json": json.dumps(content), "boot.sh": "#!/bin/bash\n"}
    return _object("v1", "ConfigMap", "motor-config", data=data)


def separate(decode: int = 2, image: str = "pymotor:1", **sections: Any) -> list[Manifest]:
    """`multi_deployment`."""
    token = _object("v1", "Secret", "motor-cluster-token", data={"token": "cmFuZG9t"})
    token["metadata"]["annotations"] = {"pymotor/create-only": "true"}
    return [
        _deployment("mindie-motor-controller", "controller", image),
        *(_deployment(f"vllm-d{number}", "decode", image) for number in range(decode)),
        _service(),
        token,
        config_map(config(decode, **sections)),
    ]


def in_set(decode: int = 2, image: str = "pymotor:1") -> list[Manifest]:
    """`infer_service_set`."""
    roles = [
        _role("controller", "Deployment", 1, image),
        _role("decode", "StatefulSet", decode, image),
    ]
    spec = {"replicas": 1, "template": {"roles": roles}}
    return [
        _object("mindcluster.huawei.com/v1", "InferServiceSet", "vllm", spec=spec),
        _service(),
        config_map(config(decode, "infer_service_set")),
    ]


def _object(api: str, kind: str, name: str, **content: Any) -> Manifest:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/component": "all"}}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **content}


def _service() -> Manifest:
    ports = [{"port": 1025, "nodePort": 31015}]
    return _object("v1", "Service", "mindie-motor-coordinator-infer", spec={"type": "NodePort", "ports": ports})


def _template(name: str, part: str, image: str) -> dict[str, Any]:
    container = {"name": part, "image": image, "env": [{"name": "ROLE", "value": part}]}
    return {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}


def _deployment(name: str, part: str, image: str) -> Manifest:
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": {"app": name}},
        "template": _template(name, part, image),
    }
    return _object("apps/v1", "Deployment", name, spec=spec)


def _role(part: str, kind: str, replicas: int, image: str) -> dict[str, Any]:
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": {"app": part}},
        "template": _template(part, part, image),
    }
    workload = {"apiVersion": "apps/v1", "kind": kind}
    return {"name": part, "replicas": replicas, "workload": workload, "spec": spec}
