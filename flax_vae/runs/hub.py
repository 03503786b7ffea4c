"""Models on the Hugging Face hub: `hf://OWNER/NAME`, optionally `@REVISION`. Needs the extra `hub`.

Only the two files of a trained model are downloaded from a repository, as data: nothing in it is executed.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from flax_vae.system.errors import UserError

MODEL = "model.safetensors"  # with model.json beside it
_NAME = r"[\w.-]+/[\w.-]+"


class Repository(NamedTuple):
    """A repository of models, "OWNER/NAME", at a branch, a tag or a commit; None for the main branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return the repository as users write it."""
        return f"hf://{self.name}" + (f"@{self.revision}" if self.revision else "")


def is_name(name: str) -> bool:
    """Return True for "OWNER/NAME"."""
    return re.fullmatch(_NAME, name) is not None


def parse(where: str | Path) -> Repository | None:
    """Parse `hf://OWNER/NAME[@REVISION]`; None for anything else. A `Path` collapses the double slash.

    Raises:
        UserError: not a valid repository name.
    """
    if not str(where).startswith("hf:"):
        return None
    match = re.fullmatch(rf"hf:/{{1,2}}({_NAME})(?:@(.+))?", str(where))
    if match is None:
        raise UserError(f"{where}: write hf://OWNER/NAME, or hf://OWNER/NAME@REVISION.")
    return Repository(match[1], match[2])


def fetch(repository: Repository) -> Path:
    """Download a model into the hub's cache, unless it is there.

    Returns:
        The file of the parameters, with its .json file beside it.

    Raises:
        UserError: the extra is not installed, no such repository or revision, no network, or no model in it.
    """
    hub, files = hub_client(), [MODEL, str(Path(MODEL).with_suffix(".json"))]
    try:
        folder = Path(hub.snapshot_download(repository.name, revision=repository.revision, allow_patterns=files))
    except failures(hub) as error:
        raise UserError(f"{repository}: {one_line(hub, error)}") from None
    if missing := [name for name in files if not (folder / name).exists()]:
        raise UserError(
            f"{repository} has no {missing[0]}: it is not a model that flax-vae export wrote as safetensors."
        )
    return folder / MODEL


def hub_client() -> Any:
    """Import the hub's client.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise UserError(f"The Hugging Face hub needs {error.name}: pip install 'flax_vae[hub]'.") from None
    return huggingface_hub


def failures(hub: Any) -> tuple[type[Exception], ...]:
    """Return the client's exceptions for faults of the network, the hub or the user."""
    errors = hub.errors
    return OSError, errors.HTTPError, errors.HFValidationError, errors.EntryNotFoundError


def one_line(hub: Any, error: Exception) -> str:
    """Return the client's error in one line, without its advice."""
    errors = hub.errors
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(line for line in lines[:2] if not line.startswith("For more")) or type(error).__name__
    is_unreachable = isinstance(error, (errors.HTTPError, errors.LocalEntryNotFoundError))
    if is_unreachable and not isinstance(error, errors.HfHubHTTPError):
        return f"the hub cannot be reached ({message.removeprefix('Got: ')})."
    return message
