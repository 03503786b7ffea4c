"""Which device holds what."""

import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from flax_vae.errors import UserError

DATA_AXIS = "data"  # the mesh axis along which devices share a batch


def data_mesh(batch_size: int, devices: int | None = None) -> Mesh | None:
    """A mesh of `devices` devices that share a batch; as many as there are and divide it, if None. None if that is one.

    Raises:
        UserError: fewer devices than that, or a batch that they cannot share evenly.
    """
    if devices is not None and devices > jax.device_count():
        raise UserError(f"--devices {devices}: there are {jax.device_count()} ({jax.default_backend()}).")
    if devices is not None and batch_size % devices:
        raise UserError(f"--devices {devices}: a batch of {batch_size} images cannot be shared evenly.")
    count = devices or math.gcd(batch_size, jax.device_count())
    if count == 1:
        return None
    return jax.make_mesh((count,), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def shardings(mesh: Mesh | None) -> tuple[Sharding, Sharding]:
    """Of an array that every device holds, and of one that they share by its second axis, batches "s b ..."."""
    if mesh is None:
        return (SingleDeviceSharding(jax.devices()[0]),) * 2
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(None, DATA_AXIS))


MEMBERS_AXIS = "members"  # the mesh axis along which devices share the members, and every stacked tree's first axis
EACH_MEMBER, EVERYWHERE = PartitionSpec(MEMBERS_AXIS), PartitionSpec()


def members_mesh(count: int, devices: int | None = None) -> Mesh:
    """A mesh of the devices that train `count` members, the same number each."""
    used = math.gcd(count, min(devices or jax.device_count(), jax.device_count()))
    return jax.make_mesh((used,), (MEMBERS_AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:used])


def member_shardings(mesh: Mesh) -> tuple[Sharding, Sharding]:
    """Of an array that every device holds, and of one whose members they share."""
    return NamedSharding(mesh, EVERYWHERE), NamedSharding(mesh, EACH_MEMBER)
