"""Models on the Hugging Face hub: `hf://OWNER/NAME`, optionally `@REVISION`. Needs the extra `hub`.

Only the two files of a trained model are downloaded from a repository, as data: nothing in it is executed. An export is
uploaded with all of its files.
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
    except _failures(hub) as error:
        raise UserError(f"{repository}: {_one_line(hub, error)}") from None
    if missing := [name for name in files if not (folder / name).exists()]:
        raise UserError(
            f"{repository} has no {missing[0]}: it is not a model that flax-vae export wrote as safetensors."
        )
    return folder / MODEL


def refuse_unpushable(name: str) -> None:
    """Raise UserError early if a push cannot succeed: no client, no token, or an invalid name."""
    if not re.fullmatch(_NAME, name):
        raise UserError(f"`push` {name}: write OWNER/NAME.")
    if hub_client().get_token() is None:
        raise UserError("`push` requires a token of the hub with write access: hf auth login, or set HF_TOKEN.")


def push(folder: Path, name: str) -> str:
    """Upload the files of a folder to a repository, which is created if it does not exist.

    Args:
        folder: the exported model.
        name: the repository, "OWNER/NAME".

    Returns:
        The address of the repository.

    Raises:
        UserError: the hub refuses, or cannot be reached.
    """
    hub = hub_client()
    api = hub.HfApi()
    try:
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model exported by flax_vae")
    except _failures(hub) as error:
        raise UserError(f"{folder} was written, but not pushed to {name}: {_one_line(hub, error)}") from None
    return str(address)


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


def _failures(hub: Any) -> tuple[type[Exception], ...]:
    """Return the client's exceptions for faults of the network, the hub or the user."""
    errors = hub.errors
    return OSError, errors.HTTPError, errors.HFValidationError, errors.EntryNotFoundError


def _one_line(hub: Any, error: Exception) -> str:
    """Return the client's error in one line, without its advice."""
    errors = hub.errors
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(line for line in lines[:2] if not line.startswith("For more")) or type(error).__name__
    is_unreachable = isinstance(error, (errors.HTTPError, errors.LocalEntryNotFoundError))
    if is_unreachable and not isinstance(error, errors.HfHubHTTPError):
        return f"the hub cannot be reached ({message.removeprefix('Got: ')})."
    return message
