"""Models on the Hugging Face hub: `hf://OWNER/NAME`, optionally `@REVISION`. Needs the extra `hub`.

Of a repository the two files of a trained model are downloaded, as data: nothing in it is executed.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from flax_vae.runs.artifact import SUFFIX
from flax_vae.system.errors import UserError

MODEL = f"model{SUFFIX}"  # with model.json beside it
_NAME = r"[\w.-]+/[\w.-]+"


class Repository(NamedTuple):
    """A repository of models, "OWNER/NAME", at a branch, a tag or a commit; None for the main branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        """As it is written."""
        return f"hf://{self.name}" + (f"@{self.revision}" if self.revision else "")


def parse(where: str | Path) -> Repository | None:
    """The repository that is named, or None where it is none of the hub. A `Path` keeps one of the slashes.

    Raises:
        UserError: it is of the hub, but no name there.
    """
    if not str(where).startswith("hf:"):
        return None
    found = re.fullmatch(rf"hf:/{{1,2}}({_NAME})(?:@(.+))?", str(where))
    if found is None:
        raise UserError(f"{where}: write hf://OWNER/NAME, or hf://OWNER/NAME@REVISION.")
    return Repository(found[1], found[2])


def fetch(repository: Repository) -> Path:
    """The file of the parameters, downloaded into the hub's cache unless it is there; its .json lies beside it.

    Raises:
        UserError: the extra is not installed, there is no such repository or revision, no network, or no model in it.
    """
    hub, files = _client(), [MODEL, str(Path(MODEL).with_suffix(".json"))]
    try:
        folder = Path(hub.snapshot_download(repository.name, revision=repository.revision, allow_patterns=files))
    except _failures(hub) as error:
        raise UserError(f"{repository}: {_one_line(hub, error)}") from None
    if missing := [name for name in files if not (folder / name).exists()]:
        raise UserError(f"{repository} has no {missing[0]}: it is no model that --format safetensors wrote.")
    return folder / MODEL


def refuse_unpushable(name: str) -> None:
    """Raise UserError where a push must fail, before the work is done: no client, no token, no name."""
    if not re.fullmatch(_NAME, name):
        raise UserError(f"--push {name}: write OWNER/NAME.")
    if _client().get_token() is None:
        raise UserError("--push needs a token of the hub that may write: hf auth login, or set HF_TOKEN.")


def push(folder: Path, name: str) -> str:
    """Upload the files of a folder to a repository, which is made where there is none; returns its address.

    Raises:
        UserError: the hub refuses, or cannot be reached.
    """
    refuse_unpushable(name)
    hub = _client()
    api = hub.HfApi()
    try:
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model exported by flax_vae")
    except _failures(hub) as error:
        raise UserError(f"{folder} is written, but not pushed to {name}: {_one_line(hub, error)}") from None
    return str(address)


def _client() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise UserError(f"The Hugging Face hub needs {error.name}: pip install 'flax_vae[hub]'.") from None
    return huggingface_hub


def _failures(hub: Any) -> tuple[type[Exception], ...]:
    """What the client raises where the network, the hub or the user is at fault."""
    errors = hub.errors
    return OSError, errors.HTTPError, errors.HFValidationError, errors.EntryNotFoundError


def _one_line(hub: Any, error: Exception) -> str:
    """What the client says, without its advice; and that the hub did not answer, where it did not."""
    errors = hub.errors
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(line for line in lines[:2] if not line.startswith("For more")) or type(error).__name__
    silent = isinstance(error, (errors.HTTPError, errors.LocalEntryNotFoundError))
    if silent and not isinstance(error, errors.HfHubHTTPError):
        return f"the hub cannot be reached ({said.removeprefix('Got: ')})."
    return said
