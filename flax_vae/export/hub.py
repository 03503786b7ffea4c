"""Upload an exported model to the Hugging Face hub. Needs the extra `hub`."""

from pathlib import Path

from flax_vae.runs.hub import failures, hub_client, is_name, one_line
from flax_vae.system.errors import UserError


def refuse_unpushable(name: str) -> None:
    """Raise UserError early if a push cannot succeed: no client, no token, or an invalid name."""
    if not is_name(name):
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
    refuse_unpushable(name)
    hub = hub_client()
    api = hub.HfApi()
    try:
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model exported by flax_vae")
    except failures(hub) as error:
        raise UserError(f"{folder} is written, but not pushed to {name}: {one_line(hub, error)}") from None
    return str(address)
