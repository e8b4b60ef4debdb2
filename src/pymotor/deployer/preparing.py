"""From two files to checked objects: all that is done before anything touches a cluster."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pymotor.config import EnvConfig, Problem, UserConfig, load_config
from pymotor.deployer.check_keys_file import check_keys_file
from pymotor.deployer.checks import check_devices, check_manifests
from pymotor.deployer.input_checks import check_inputs
from pymotor.deployer.naming import Manifest
from pymotor.deployer.patches import Patch, apply_patches, read_patches
from pymotor.deployer.render import RenderOptions, render
from pymotor.deployer.tls import enabled_planes, is_users_own, secret_of
from pymotor.deployer.tls_files import read_tls_files
from pymotor.deployer.walk import secret_names
from pymotor.engines.checks import check_engines

PATCHES = "yaml_template"
BOOT_SCRIPT = Path("startup") / "boot.sh"


@dataclass(frozen=True)
class Prepared:
    """The objects of a deployment, unless there are errors."""

    user: UserConfig | None
    env: EnvConfig
    manifests: list[Manifest]
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        """Whether there is no error; there may be warnings."""
        return self.user is not None and not any(problem.severity == "error" for problem in self.problems)


def prepare(user_path: Path, env_path: Path | None, home: Path, *, dry_run: bool) -> Prepared:
    """Read, check, render, patch and check again. `home`: the directory with `yaml_template/` and `startup/`.

    Never raises for what the files hold.
    """
    loaded = load_config(user_path, env_path)
    problems = list(loaded.problems)
    user, env = loaded.user, loaded.env
    if user is None:
        return Prepared(None, env, [], problems)
    file, env_file = str(user_path), str(env_path or "env.json")
    problems = _told_once(problems, check_engines(user, file))
    problems = _told_once(problems, check_inputs(user, env, file, env_file, dry_run=dry_run))
    certified = read_tls_files(user, file, user_path.parent, dry_run=dry_run)
    problems = _told_once(problems, certified.problems)
    patches, unreadable = read_patches(home / PATCHES)
    problems += unreadable
    boot_script, unreadable = _boot_script(home)
    problems += unreadable
    if any(problem.severity == "error" for problem in problems):
        return Prepared(user, env, [], problems)
    options = RenderOptions(
        boot_script=boot_script, cluster_token=secrets.token_urlsafe(32), tls_files=certified.contents
    )
    manifests, unused = apply_patches(render(user, env, options), patches)
    problems += unused
    problems += check_manifests(manifests, [*_expected(user, dry_run=dry_run), *_named_by(patches)])
    problems += check_devices(manifests, user)
    problems += check_keys_file(manifests, user, file)
    return Prepared(user, env, manifests, problems)


def _boot_script(home: Path) -> tuple[str | None, list[Problem]]:
    """The text of `boot.sh`; without one pods start with their image's."""
    path = home / BOOT_SCRIPT
    try:
        return path.read_text(encoding="utf-8"), []
    except FileNotFoundError:
        return None, []
    except (OSError, UnicodeDecodeError) as error:
        return None, [Problem.error(str(path), "$", f"the file cannot be read: {error}", suggestion="restore it")]


def _expected(user: UserConfig, *, dry_run: bool) -> list[str]:
    """Secrets that are not made here: the user's own, and in a dry run those whose files may be elsewhere."""
    planes = [plane for plane in enabled_planes(user) if dry_run or is_users_own(user, plane)]
    return [f"Secret/{secret_of(user, plane)}" for plane in planes]


def _named_by(patches: Sequence[Patch]) -> list[str]:
    """Secrets that patches name are the user's own: whether they are there is asked of the cluster."""
    return [f"Secret/{name}" for patch in patches for name in secret_names(patch.content)]


def _told_once(problems: Sequence[Problem], more: Sequence[Problem]) -> list[Problem]:
    """Both, without what was told of the same place before; an error takes the place of a warning."""
    errors = {problem.path for problem in more if problem.severity == "error"}
    kept = [problem for problem in problems if problem.severity == "error" or problem.path not in errors]
    known = {problem.path for problem in kept}
    return [*kept, *(problem for problem in more if problem.path not in known)]
