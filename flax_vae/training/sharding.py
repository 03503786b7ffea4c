"""Which device holds what: a mesh of devices shares members of an ensemble along one axis, batches along the other."""

import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from flax_vae.errors import UserError

DATA_AXIS, MEMBERS_AXIS = "data", "members"
EVERYWHERE, EACH_MEMBER = PartitionSpec(), PartitionSpec(MEMBERS_AXIS)


def data_mesh(batch_size: int, devices: int | None = None) -> Mesh | None:
    """A mesh of `devices` devices that share a batch; as many as there are and divide it, if None. None if that is one.

    Raises:
        UserError: fewer devices than that, or a batch that they cannot share evenly.
    """
    mesh = ensemble_mesh(1, batch_size, devices)
    return mesh if mesh.size > 1 else None


def ensemble_mesh(members: int, batch_size: int, devices: int | None = None, whole_batch: bool = False) -> Mesh:
    """A mesh "members data": as many groups of devices as divide the members, each of which shares its batches.

    Args:
        members: trainings in one program.
        batch_size: images per step.
        devices: how many to use; all that there are, if None.
        whole_batch: whether a batch stays on one device.

    Raises:
        UserError: as for `data_mesh`.
    """
    if devices is not None and devices > jax.device_count():
        raise UserError(f"--devices {devices}: there are {jax.device_count()} ({jax.default_backend()}).")
    groups = math.gcd(members, devices or jax.device_count())
    share = 1 if whole_batch else (devices or jax.device_count()) // groups
    if devices is not None and batch_size % share:
        raise UserError(f"--devices {devices}: a batch of {batch_size} images cannot be shared evenly.")
    share = math.gcd(batch_size, share)
    chosen = jax.devices()[: groups * share]
    return jax.make_mesh((groups, share), (MEMBERS_AXIS, DATA_AXIS), axis_types=(AxisType.Auto,) * 2, devices=chosen)


def shardings(mesh: Mesh | None) -> tuple[Sharding, Sharding]:
    """Of an array that every device holds, and of one that they share by its second axis, batches "s b ..."."""
    if mesh is None:
        return (SingleDeviceSharding(jax.devices()[0]),) * 2
    return NamedSharding(mesh, EVERYWHERE), NamedSharding(mesh, PartitionSpec(None, DATA_AXIS))
