"""A `kubectl` for tests: objects are files of a directory, controllers act at once, errors are played as recorded.

FAKE_CLUSTER names the directory:

    objects/KIND/NAMESPACE/NAME.json    what is there; `_` for objects without a namespace
    settings.json                       `kinds_missing`, `stuck` (workloads that never get ready), `instances` (what
                                        the Controller says), `forward_to` (where a forwarded port leads),
                                        `fails_at` (the number of the call that fails, and with what words)
    played/N.json                       answers that come instead: `match` (words of the call), `said`, `times` …
    logs/POD.RESTARTS                   what a container printed; it runs on until POD.RESTARTS.ended is there
    calls                               a JSON line for each call
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

CLUSTER = Path(os.environ["FAKE_CLUSTER"])
OBJECTS = CLUSTER / "objects"
CLUSTER_KINDS = {"Namespace", "Node", "ClusterRole", "ClusterRoleBinding"}
KINDS = {
    "configmap": "ConfigMap",
    "secret": "Secret",
    "service": "Service",
    "serviceaccount": "ServiceAccount",
    "deployment": "Deployment",
    "statefulset": "StatefulSet",
    "daemonset": "DaemonSet",
    "job": "Job",
    "pod": "Pod",
    "node": "Node",
    "namespace": "Namespace",
    "lease": "Lease",
    "role": "Role",
    "rolebinding": "RoleBinding",
    "clusterrole": "ClusterRole",
    "clusterrolebinding": "ClusterRoleBinding",
    "poddisruptionbudget": "PodDisruptionBudget",
    "persistentvolumeclaim": "PersistentVolumeClaim",
    "inferserviceset": "InferServiceSet",
}
PLURALS = {"networkpolicies": "NetworkPolicy", **{f"{word}s": kind for word, kind in KINDS.items()}}
API = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "InferServiceSet": "mindcluster.huawei.com/v1",
    "Lease": "coordination.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
}


def fail(said, status=1):
    print(said, file=sys.stderr)
    sys.exit(status)


def settings():
    file = CLUSTER / "settings.json"
    return json.loads(file.read_text()) if file.exists() else {}


def kind_of(word):
    plain = word.lower().split(".")[0]
    kind = PLURALS.get(plain) or KINDS.get(plain)
    if kind is None or kind in settings().get("kinds_missing", []):
        fail(f'error: the server doesn\'t have a resource type "{plain}"')
    return kind


def place(kind, namespace, name):
    return OBJECTS / kind / ("_" if kind in CLUSTER_KINDS else namespace) / f"{name}.json"


def read(file):
    return json.loads(file.read_text()) if file.exists() else None


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.rename(file)


def resource_of(kind):
    return next(word for word, its in PLURALS.items() if its == kind)


def play(words):
    for file in sorted((CLUSTER / "played").glob("*.json")):
        answer = json.loads(file.read_text())
        if answer["match"] in words and answer["times"] > 0:
            answer["times"] -= 1
            write(file, answer)
            print(answer.get("prints", ""), end="", flush=True)
            if answer.get("hangs"):
                signal.pause()
            fail(answer.get("said", ""), answer.get("status", 1))


def reconcile(namespace):
    """What the controllers of Kubernetes and the operator of InferServiceSet do."""
    stuck = settings().get("stuck", [])
    for file in sorted((OBJECTS / "InferServiceSet" / namespace).glob("*.json")):
        infer_service_set = read(file)
        operate(infer_service_set, namespace, stuck)
        finish(infer_service_set, file.stem in stuck)
        write(file, infer_service_set)
    workloads = {}
    for kind in ("Deployment", "StatefulSet"):
        for file in sorted((OBJECTS / kind / namespace).glob("*.json")):
            workload = read(file)
            finish(workload, file.stem in stuck)
            write(file, workload)
            workloads[kind, file.stem] = workload
    for file in (OBJECTS / "Pod" / namespace).glob("*.json"):
        owner = read(file)["metadata"]["ownerReferences"][0]
        workload = workloads.get((owner["kind"], owner["name"]))
        if workload is None or owner["uid"] != workload["metadata"]["uid"]:
            file.unlink()
    for (kind, name), workload in workloads.items():
        for number in range(workload["spec"].get("replicas", 1)):
            make_pod(namespace, kind, name, workload, number, name in stuck)


def operate(infer_service_set, namespace, stuck):
    name = infer_service_set["metadata"]["name"]
    for role in infer_service_set["spec"]["template"]["roles"]:
        kind = role["workload"]["kind"]
        stem = f"{name}-0-{role['name']}-"
        offer(role, name, namespace, {"kind": "InstanceSet", "name": stem, "uid": name, "controller": True})
        for file in (OBJECTS / kind / namespace).glob(f"{stem}*.json"):
            if int(file.stem.removeprefix(stem)) >= role["replicas"]:
                file.unlink()
        for index in range(role["replicas"]):
            file = place(kind, namespace, f"{stem}{index}")
            if file.exists():
                continue  # a changed template is not rolled out
            labels = {
                "infer.huawei.com/inferservice-name": f"{name}-0",
                "infer.huawei.com/instanceset-name": role["name"],
                "infer.huawei.com/instanceset-index": str(index),
            }
            spec = copy.deepcopy(role["spec"])
            spec["template"]["metadata"].setdefault("labels", {}).update(labels)
            owner = {"kind": "InstanceSet", "name": f"{name}-0-{role['name']}", "uid": "1", "controller": True}
            metadata = {
                "name": file.stem,
                "namespace": namespace,
                "labels": {**role.get("metadata", {}).get("labels", {}), **labels},
                "ownerReferences": [owner],
                "generation": 1,
                "uid": os.urandom(4).hex(),
            }
            write(file, {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec})


def offer(role, name, namespace, owner):
    """The Services of a role, once for all its instances."""
    for service in role.get("services", []):
        metadata = {
            **service.get("metadata", {}),
            "name": f"{service['name']}-{name}-0-{role['name']}",
            "namespace": namespace,
            "ownerReferences": [owner],
        }
        content = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service["spec"]}
        write(place("Service", namespace, metadata["name"]), content)


def finish(workload, stuck):
    wanted = workload["spec"].get("replicas", 1)
    ready = 0 if stuck else wanted
    workload["status"] = {
        "observedGeneration": workload["metadata"]["generation"],
        "replicas": wanted,
        "updatedReplicas": wanted,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "currentRevision": "1",
        "updateRevision": "1",
        "conditions": [{"type": "Ready", "status": "False" if stuck else "True"}],
    }


def make_pod(namespace, kind, name, workload, number, stuck):
    file = place("Pod", namespace, f"{name}-{number}")
    old = read(file)
    if old is not None and old["metadata"]["generated"] == workload["metadata"]["generation"]:
        return
    template = copy.deepcopy(workload["spec"]["template"])
    metadata = {
        **template.get("metadata", {}),
        "name": file.stem,
        "namespace": namespace,
        "uid": os.urandom(4).hex(),
        "generated": workload["metadata"]["generation"],
        "ownerReferences": [{"kind": kind, "name": name, "uid": workload["metadata"]["uid"], "controller": True}],
    }
    state = {"waiting": {"reason": "ImagePullBackOff"}} if stuck else {"running": {}}
    status = {
        "phase": "Pending" if stuck else "Running",
        "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "False" if stuck else "True"}],
        "containerStatuses": [{"name": "main", "restartCount": 0, "state": state}],
    }
    spec = {**template["spec"], "nodeName": "node01"}
    write(file, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})


def merged(manifest, old):
    new = copy.deepcopy(manifest)
    if old is None:
        return {**new, "metadata": {**new["metadata"], "generation": 1, "uid": os.urandom(4).hex()}}
    generation = old["metadata"]["generation"] + (new.get("spec") != old.get("spec"))
    new["metadata"] = {**new["metadata"], "generation": generation, "uid": old["metadata"]["uid"]}
    if "status" in old:
        new["status"] = old["status"]
    return new


def taken(manifest, namespace):
    kind, metadata = manifest["kind"], manifest["metadata"]
    named = f"{kind.lower()}/{metadata['name']}"
    play(f"{' '.join(sys.argv[1:])} {named}")
    if kind in settings().get("kinds_missing", []):
        fail(
            f'error: resource mapping not found for name: "{metadata["name"]}" namespace: "{namespace}" from "STDIN": '
            f'no matches for kind "{kind}" in version "{manifest["apiVersion"]}"\nensure CRDs are installed first'
        )
    stated = metadata.get("namespace")
    if stated and kind not in CLUSTER_KINDS and stated != namespace:
        fail(
            f'error: the namespace from the provided object "{stated}" does not match the namespace "{namespace}". You '
            f"must pass '--namespace={stated}' to perform this operation."
        )
    if kind not in CLUSTER_KINDS and not place("Namespace", "", namespace).exists():
        fail(f'Error from server (NotFound): namespaces "{namespace}" not found')
    return manifest, place(kind, namespace, metadata["name"]), named


def apply(options, namespace):
    """kubectl goes on after an object that is refused, and then fails."""
    content = json.load(sys.stdin)
    items = content["items"] if content["kind"] == "List" else [content]
    failed = [apply_or_say_why_not(manifest, options, namespace) for manifest in items]
    reconcile(namespace)
    sys.exit(max(failed, default=0))


def apply_or_say_why_not(manifest, options, namespace):
    try:
        apply_one(manifest, options, namespace)
    except SystemExit as ended:
        return ended.code
    return 0


def apply_one(manifest, options, namespace):
    manifest, file, named = taken(manifest, namespace)
    if "--dry-run=server" in options:
        print(f"{named} serverside-applied (server dry run)")
        return
    write(file, merged(manifest, read(file)))
    print(f"{named} serverside-applied")


def create(words, namespace):
    if words[:1] == ["namespace"]:
        write(place("Namespace", "", words[1]), {"kind": "Namespace", "metadata": {"name": words[1], "uid": "0"}})
        print(f"namespace/{words[1]} created")
        return
    manifest, file, named = taken(json.load(sys.stdin), namespace)
    if file.exists():
        resource = resource_of(manifest["kind"])
        fail(f'Error from server (AlreadyExists): error when creating "STDIN": {resource} "{file.stem}" already exists')
    write(file, merged(manifest, None))
    print(f"{named} created")


def diff(namespace):
    import difflib

    manifest, file, _ = taken(json.load(sys.stdin), namespace)
    old = read(file)
    texts = [json.dumps(one, indent=1, sort_keys=True).splitlines() for one in (old or {}, merged(manifest, old))]
    lines = list(difflib.unified_diff(*texts, "LIVE", "MERGED", lineterm=""))
    print("".join(f"{line}\n" for line in lines), end="")
    sys.exit(1 if lines else 0)


def get(words, options, namespace):
    kinds = [kind_of(word) for word in words[0].split(",")]
    if len(words) > 1:
        found = read(place(kinds[0], namespace, words[1]))
        if found is None:
            fail(f'Error from server (NotFound): {resource_of(kinds[0])} "{words[1]}" not found')
        print(json.dumps(found))
        return
    selector = dict(pair.split("=") for pair in options.get("-l", "").split(",") if pair)
    where = "*" if "--all-namespaces" in options else namespace
    items = [
        one
        for kind in kinds
        for file in sorted((OBJECTS / kind).glob(f"{'_' if kind in CLUSTER_KINDS else where}/*.json"))
        if selector.items() <= ((one := read(file))["metadata"].get("labels") or {}).items()
    ]
    if "-o" not in options:
        print("\n".join(one["metadata"]["name"] for one in items))
        return
    print(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


def delete(words, namespace):
    kind = kind_of(words[0])
    file = place(kind, namespace, words[1])
    if not file.exists():
        return
    content = read(file)
    file.unlink()
    if kind == "InferServiceSet":
        for its in ("Deployment", "StatefulSet"):
            for owned in (OBJECTS / its / namespace).glob(f"{content['metadata']['name']}-0-*.json"):
                owned.unlink()
        for service in (OBJECTS / "Service" / namespace).glob("*.json"):
            if any(one["uid"] == words[1] for one in read(service)["metadata"].get("ownerReferences", [])):
                service.unlink()
    reconcile(namespace)
    print(f'{kind.lower()} "{words[1]}" deleted')


def execute(words):
    if words[:3] == ["pymotor", "instances", "list"]:
        print(json.dumps({"instances": settings().get("instances", [])}))
    if words[:2] == ["pymotor", "config"]:
        print(json.dumps(settings()["config"]))


def logs(pod, namespace):
    """Until the container ends or the pod is gone, as `kubectl logs -f`."""
    restarts = read(place("Pod", namespace, pod))["status"]["containerStatuses"][0]["restartCount"]
    file = CLUSTER / "logs" / f"{pod}.{restarts}"
    at = 0
    while True:
        over = file.with_name(f"{file.name}.ended").exists() or not place("Pod", namespace, pod).exists()
        text = file.read_bytes() if file.exists() else b""
        sys.stdout.buffer.write(text[at:])
        sys.stdout.flush()
        at = len(text)
        if over:
            return
        time.sleep(0.02)


def main():
    with (CLUSTER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (CLUSTER / "calls").open("a") as calls:
            calls.write(json.dumps(sys.argv[1:]) + "\n")
        at, said = settings().get("fails_at", (0, ""))
        if at and len((CLUSTER / "calls").read_text().splitlines()) == at:
            fail(said)
        arguments = [word for word in sys.argv[1:] if not word.startswith("--request-timeout")]
        after = []
        if "--" in arguments:
            after = arguments[arguments.index("--") + 1 :]
            arguments = arguments[: arguments.index("--")]
        options, words = {}, []
        left = iter(arguments)
        for word in left:
            if (word in ("-n", "-l", "-o", "-f", "-c", "--address") and arguments[0] != "logs") or word == "-n":
                options[word] = next(left)
            elif word.startswith("-"):
                options[word] = ""
            else:
                words.append(word)
        verb, words, namespace = words[0], words[1:], options.get("-n", "default")
        if verb not in ("apply", "create", "diff"):
            play(" ".join([verb, *words, *after]))
        if verb == "apply":
            return apply(options, namespace)
        if verb == "create":
            return create(words, namespace)
        if verb == "diff":
            return diff(namespace)
        if verb == "get":
            return get(words, options, namespace)
        if verb == "delete":
            return delete(words, namespace)
        if verb == "exec":
            return execute(after)
    if verb == "logs":
        return logs(words[0], namespace)
    if verb == "port-forward":
        print(f"Forwarding from {settings()['forward_to']} -> {words[1].lstrip(':')}", flush=True)
        signal.pause()
    return None


if __name__ == "__main__":
    main()
