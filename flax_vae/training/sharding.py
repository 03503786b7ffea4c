"""A mesh of devices with three axes, and the shardings of arrays on it.

Groups of devices along `MEMBERS_AXIS` train different members of an ensemble. Within a group the devices along
`DATA_AXIS` and `FSDP_AXIS` split every batch. Devices along `FSDP_AXIS` also shard the large parameters and their
optimiser state, and gather them for each step (ZeRO, Rajbhandari et al. 2020).
"""

import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding, get_abstract_mesh

from flax_vae.system.errors import UserError

MEMBERS_AXIS, DATA_AXIS, FSDP_AXIS = "members", "data", "fsdp"
BATCH_AXES = (DATA_AXIS, FSDP_AXIS)
EVERYWHERE, EACH_MEMBER = PartitionSpec(), PartitionSpec(MEMBERS_AXIS)
_SMALL = 2**12  # arrays with fewer numbers are replicated, which is faster than gathering them


def data_mesh(batch_size: int, devices: int | None = None, fsdp: int = 1) -> Mesh | None:
    """Return a mesh of devices that split a batch; None for a single device.

    Args:
        batch_size: number of images that the devices work on at the same time.
        devices: number of devices; by default the largest number that divides the batch.
        fsdp: number of devices that shard the parameters.

    Raises:
        UserError: too few devices, or a batch that they cannot split evenly.
    """
    mesh = ensemble_mesh(1, batch_size, devices, fsdp)
    return mesh if mesh.size > 1 else None


def ensemble_mesh(members: int, batch_size: int, devices: int | None = None, fsdp: int = 1) -> Mesh:
    """Return a mesh of groups of devices, as many as divide the members; each group splits its batches.

    Args:
        members: number of trainings in the program.
        batch_size: number of images that a group works on at the same time.
        devices: number of devices; by default as many as possible.
        fsdp: number of devices that shard the parameters of a member.

    Raises:
        UserError: too few devices, or a batch that they cannot split evenly.
    """
    available, kind = jax.device_count(), jax.default_backend()
    count = available if devices is None else devices
    if count > available:
        raise UserError(f"`devices` is {count}, but there are {available} ({kind}).")
    if count % fsdp:
        raise UserError(f"`fsdp` is {fsdp} and must divide the number of devices, {count} ({kind}).")
    groups = math.gcd(members, count // fsdp)
    group_size = count // groups
    if batch_size % group_size and (devices is not None or jax.process_count() > 1):
        raise UserError(
            f"{group_size} devices cannot split a batch of {batch_size} images evenly: change `batch_size`."
        )
    group_size = math.gcd(batch_size, group_size)
    if group_size % fsdp:
        raise UserError(f"`fsdp` is {fsdp}, but that many devices cannot split a batch of {batch_size} images evenly.")
    shape, names = (groups, group_size // fsdp, fsdp), (MEMBERS_AXIS, *BATCH_AXES)
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[: groups * group_size])


def batch_devices(mesh: Mesh | None) -> int:
    """Return the number of devices that split a batch; 1 without a mesh."""
    return mesh.shape[DATA_AXIS] * mesh.shape[FSDP_AXIS] if mesh else 1


def shardings(mesh: Mesh | None) -> tuple[Sharding, Sharding]:
    """Return the shardings of a replicated array, and of one split along its second axis, batches "s b ..."."""
    if mesh is None:
        return (SingleDeviceSharding(jax.local_devices()[0]),) * 2
    return NamedSharding(mesh, EVERYWHERE), NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))


def parameter_shardings(mesh: Any, tree: Any, *stacked_axes: str) -> Any:
    """Return the sharding of each array of a tree: `FSDP_AXIS` splits its largest axis that it divides.

    Small arrays are replicated.

    Args:
        mesh: the devices.
        tree: arrays or their shapes, without stacked axes.
        stacked_axes: axes of the mesh that split the leading, stacked axes of the arrays.
    """
    parts = mesh.shape[FSDP_AXIS]

    def sharding(leaf: Any) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0]
        if parts == 1 or not divisible or math.prod(leaf.shape) < _SMALL:
            return NamedSharding(mesh, PartitionSpec(*stacked_axes))
        split = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*stacked_axes, *(None,) * split, FSDP_AXIS))

    return jax.tree.map(sharding, tree)


def inside_shard_map() -> bool:
    """Return True while tracing a `jax.shard_map` over the batch axes, whose arrays belong to one device."""
    return DATA_AXIS in get_abstract_mesh().manual_axes


def constrain(tree: Any, mesh: Mesh | None, spec: PartitionSpec | None = None) -> Any:
    """Constrain arrays to a sharding, within jit: to `spec`, or without it to their `parameter_shardings`."""
    if mesh is None or inside_shard_map():
        return tree
    abstract = get_abstract_mesh()
    current: Any = mesh if abstract.empty else abstract  # a `jax.shard_map` over members replaces the mesh
    to = parameter_shardings(current, tree) if spec is None else NamedSharding(current, spec)
    return jax.lax.with_sharding_constraint(tree, to)
