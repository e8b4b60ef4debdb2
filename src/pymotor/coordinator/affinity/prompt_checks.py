"""What there is to say against the files that tell a prompt's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pymotor.config import Problem
from pymotor.control_plane.path_checks import is_readable
from pymotor.coordinator.affinity.prompt_files import (
    MODEL_KEY,
    TOKENIZER_KEY,
    Place,
    engines_template,
    template_file,
    tokenizer_place,
    why_no_template,
)
from pymotor.coordinator.prompts.model_files import (
    no_template_in,
    read_model_files,
    why_not,
    why_not_loaded,
    why_templates_fail,
)
from pymotor.fleet import Role

if TYPE_CHECKING:
    from pymotor.config import UserConfig


def instead_of_tokenizer(user: UserConfig) -> str:
    """Which directory `tokenizer_path` is to name, and what is done without the key, in words."""
    by_prefix = user.motor_coordinator_config.scheduler_config.scheduler_type == "kv_cache_affinity"
    others = "the engines' model, or their /tokenize, tells the tokens of prompts"
    return (
        "name a directory with the model's tokenizer.json; without the key "
        f"{others if by_prefix else 'prompts are estimated'}"
    )


def found_in_prompt_files(user: UserConfig, file: str) -> Iterator[tuple[Problem, bool]]:
    """Each problem of those that are there, and whether it is one on every machine and for every user."""
    place = tokenizer_place(user, Path(file).parent)
    if place is None or why_not(place.named) is not None:
        return
    why = why_not_loaded(place.named)
    if why is not None:
        mend = (
            instead_of_tokenizer(user)
            if place.key == TOKENIZER_KEY
            else f"put the model's own files there, or name a directory with them as {TOKENIZER_KEY.removeprefix('$.')}"
        )
        problem = Problem.error(file, place.key, why, value=place.named, suggestion=mend)
        yield problem, _all_readable(Path(place.named))
    template = template_file(user)
    unread = why_no_template(template.named) if template is not None else None
    if template is not None and unread is not None:
        mend = "name the file that engines are started with, as UTF-8 text that this user may read"
        problem = Problem.error(file, template.key, unread, value=template.named, suggestion=mend)
        yield problem, is_readable(Path(template.named))
    if why is None and unread is None:
        for problem in _lacking(user, file, place, template):
            yield problem, True


def _lacking(user: UserConfig, file: str, place: Place, template: Place | None) -> Iterator[Problem]:
    """What files that can be used do not tell. Warnings, since engines are asked, or texts compared."""
    by_prefix = user.motor_coordinator_config.scheduler_config.scheduler_type == "kv_cache_affinity"
    stated = engines_template(user)
    files = read_model_files(place.named, stated)
    otherwise = "each chat waits for an engine's /tokenize" if by_prefix else "the lengths of chats are estimated"
    why = why_templates_fail(files)
    if why is not None:
        culprit = template if template is not None else place
        yield Problem.warning(
            file,
            culprit.key,
            f"{why}: {otherwise}",
            value=culprit.named,
            suggestion="mend the template: the model's own is in chat_template.jinja or tokenizer_config.json",
        )
    if not by_prefix:
        return
    # Engines have no more than what is in a directory of their own.
    if not files.template and place.key in (TOKENIZER_KEY, MODEL_KEY):
        yield Problem.warning(
            file,
            place.key,
            f"{no_template_in(place.named)}: {otherwise}",
            value=place.named,
            suggestion="put the model's own tokenizer_config.json and chat_template.jinja beside its tokenizer.json",
        )
    if not files.placeholders and user.instance_count(Role.ENCODE):
        yield Problem.warning(
            file,
            place.key,
            f"no config.json in {place.named} names the placeholders of media (image_token_id and the like): requests "
            "with media are compared by their texts",
            value=place.named,
            suggestion="put the model's own config.json beside its tokenizer.json",
        )


def _all_readable(directory: Path) -> bool:
    try:
        return all(is_readable(one) for one in directory.iterdir())
    except OSError:
        return False
