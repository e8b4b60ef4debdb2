"""What kubectl complains of, as errors that say what to do."""

from __future__ import annotations

import re


class KubectlError(Exception):
    """kubectl could not do it. `str()` is for people: what failed, what kubectl said, what to do."""

    remedy = ""

    def __init__(self, doing: str, said: str, remedy: str = "") -> None:
        """`doing`: what was tried, in words; `said`: kubectl's standard error."""
        self.doing = doing
        self.said = said.strip()
        words = f"{doing}: {self.said}" if self.said else f"{doing}: kubectl failed without a word"
        advice = remedy or self.remedy
        super().__init__(f"{words}\n    to do: {advice}" if advice else words)


class KubectlMissingError(KubectlError):
    """There is no kubectl."""

    remedy = "install kubectl, or put its directory on PATH"


class NoClusterError(KubectlError):
    """No API server answers, or none is configured."""

    remedy = "check KUBECONFIG and the current context: kubectl config current-context; kubectl cluster-info"


class UnauthorizedError(KubectlError):
    """The API server does not know who asks."""

    remedy = "renew the credentials of the kubeconfig; kubectl auth whoami says whether they hold"


class ForbiddenError(KubectlError):
    """This user may not do it."""

    remedy = "ask an administrator of the cluster for this right, or let one run the command; kubectl auth can-i --list"


class ConflictError(KubectlError):
    """Somebody else owns a field, or changed the object at the same time."""

    remedy = (
        "run it again; if a field has another owner, put the change into user_config.json or yaml_template/ instead of "
        "the cluster and take the field back: kubectl apply --server-side --force-conflicts --field-manager=pymotor "
        "-f output_yamls/"
    )


class TimedOutError(KubectlError):
    """kubectl or the API server took too long."""

    remedy = "see whether the API server is well (kubectl get --raw=/readyz), then run it again: what is done is kept"


class KindMissingError(KubectlError):
    """The cluster does not know this kind of object: a custom resource definition is not installed."""

    remedy = (
        "install the custom resource definition and its operator (InferServiceSet: MindCluster infer-operator), "
        'or set "deploy_mode": "multi_deployment" in motor_deploy_config'
    )


class NotThereError(KubectlError):
    """The object is not there."""


class NamespaceMissingError(NotThereError):
    """The namespace is not there."""

    remedy = "create it: kubectl create namespace NAME, with job_id of motor_deploy_config as its name"


class AlreadyThereError(KubectlError):
    """The object is there already."""


class RefusedError(KubectlError):
    """The API server or an admission webhook refuses the object as it is."""

    remedy = "mend the key that is named in user_config.json or in the patch under yaml_template/"


_SIGNS: tuple[tuple[str, type[KubectlError]], ...] = (
    (r'namespaces "[^"]*" not found', NamespaceMissingError),
    (r"no matches for kind|doesn't have a resource type|could not find the requested resource", KindMissingError),
    (r"\(Forbidden\)|is forbidden:", ForbiddenError),
    (
        r"\(Unauthorized\)|must be logged in to the server|asked for the client to provide credentials",
        UnauthorizedError,
    ),
    (r"\(AlreadyExists\)|already exists", AlreadyThereError),
    (r"\(Conflict\)|conflicts? with |has been modified", ConflictError),
    (r"\(NotFound\)", NotThereError),
    (r"\(Timeout\)|\(ServerTimeout\)|context deadline exceeded|i/o timeout|Client\.Timeout|timed out", TimedOutError),
    (
        r"connection refused|connection to the server .* was refused|no such host|no configuration has been provided|"
        r"Unable to connect to the server|current-context .*(not|does)|context .* does not exist|no route to host",
        NoClusterError,
    ),
    (r"\(Invalid\)|\(BadRequest\)|strict decoding error|is invalid:|admission webhook .* denied", RefusedError),
)
"""Words of kubectl and what they mean; the first that is found counts."""


def error_of(doing: str, said: str) -> KubectlError:
    """The error that kubectl's standard error tells of."""
    # kubectl repeats what its cache of API groups failed with before it says it in words.
    lines = [line for line in said.splitlines() if "memcache.go" not in line and not line.startswith("W")]
    words = "\n".join(lines)
    for sign, kind in _SIGNS:
        if re.search(sign, words):
            remedy = ""
            if kind is NamespaceMissingError and (name := re.search(r'namespaces "([^"]+)" not found', words)):
                remedy = f"create it: kubectl create namespace {name[1]}"
            return kind(doing, words, remedy)
    return KubectlError(doing, words)
