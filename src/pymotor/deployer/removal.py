"""`delete.sh NAMESPACE`: removes what was deployed there, by label, and says what is left."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence

from pymotor.command_output import Parser, in_one_line
from pymotor.deployer.cluster_checks import namespace_is_there
from pymotor.deployer.kubectl import Kubectl, named
from pymotor.deployer.kubectl_errors import ForbiddenError, KubectlError
from pymotor.deployer.naming import INSTANCE_LABEL, Manifest
from pymotor.deployer.owned import controller_leases, owned_objects
from pymotor.deployer.pods import SERVICE_LABEL, labels_of, name_of
from pymotor.deployer.request import DeployError

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_POLL_SECONDS = 1.0


def remove(
    kubectl: Kubectl, tell: Callable[[str], None], *, timeout: float = 600.0, poll_seconds: float = _POLL_SECONDS
) -> int:
    """Delete the deployment of this namespace and wait for the end of its pods; the exit status.

    Raises `DeployError`, `KubectlError`.
    """
    namespace = kubectl.namespace
    if not namespace_is_there(kubectl):
        tell(f"the namespace {namespace} is not there: nothing to delete")
        return 0
    objects, unseen = owned_objects(kubectl, namespace)
    kept: list[str] = []
    for one in objects:
        kept += _delete(kubectl, one, tell)
    ends = time.monotonic() + timeout
    pods, said = _pods(kubectl), ""
    while pods and time.monotonic() < ends:
        words = f"waiting for {len(pods)} pods to finish what they have: {', '.join(sorted(map(name_of, pods)))}"
        if words != said:
            tell(words)
        said = words
        time.sleep(poll_seconds)
        pods = _pods(kubectl)
    # Controllers make their Lease again as long as they run.
    for lease in controller_leases(kubectl):
        kept += _delete(kubectl, lease, tell)
    left = [*kept, *unseen, *(f"Pod {name_of(pod)}" for pod in pods), *map(named, _claims(kubectl))]
    again, _ = owned_objects(kubectl, namespace)
    left += [words for words in map(named, again) if words not in left]
    if not objects:
        tell(f"nothing of PyMotor was deployed in {namespace}")
    for words in left:
        tell(f"left: {words}")
    tell(f"left: the namespace {namespace} itself (kubectl delete namespace {namespace} removes all that is in it)")
    if pods:
        print(
            f"{len(pods)} pods are still there after {timeout:g} s\n    to do: kubectl describe pods -n {namespace} "
            "says what they wait for; then run it again",
            file=sys.stderr,
        )
    return 1 if pods or kept or again else 0


def _delete(kubectl: Kubectl, one: Manifest, tell: Callable[[str], None]) -> list[str]:
    try:
        kubectl.delete(one)
    except ForbiddenError as error:
        # The rest can still go, and who may delete it has to know of it.
        return [f"{named(one)}: {error.said}"]
    tell(f"{named(one)} deleted")
    return []


def _pods(kubectl: Kubectl) -> list[Manifest]:
    """Pods of the deployment: with its label, or made by the operator of InferServiceSet."""
    return [
        pod
        for pod in kubectl.listed(["pods"])
        if labels_of(pod).get(INSTANCE_LABEL) == kubectl.namespace or SERVICE_LABEL in labels_of(pod)
    ]


def _claims(kubectl: Kubectl) -> list[Manifest]:
    return kubectl.listed(["persistentvolumeclaims"])


def main(argv: Sequence[str] | None = None) -> int:
    """The command: exit status 0 all gone, 1 something is left that should not be, 2 wrong usage."""
    parser = Parser(prog="delete.sh", description=__doc__)
    parser.add_argument("namespace", help="job_id of the deployment")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="for pods to end (%(default)g)")
    return in_one_line("delete.sh", lambda: _run(parser.parse_args(argv)))


def _run(arguments: argparse.Namespace) -> int:
    if not _DNS_LABEL.fullmatch(arguments.namespace):
        print(f"{arguments.namespace!r} is no name of a namespace: lower-case letters, digits and -", file=sys.stderr)
        return 2

    def tell(words: str) -> None:
        print(words, flush=True)

    try:
        return remove(Kubectl(arguments.namespace), tell, timeout=arguments.timeout)
    except (KubectlError, DeployError) as error:
        print(f"delete failed: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
