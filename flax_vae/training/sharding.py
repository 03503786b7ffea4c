"""Which device holds what: a mesh of devices with three axes.

Along `MEMBERS_AXIS` are groups of devices, each with members of an ensemble of its own. The devices of a group share
every batch, along `DATA_AXIS` and `FSDP_AXIS`; those along `FSDP_AXIS` share the large parameters as well, and what the
optimiser keeps of them; parameters are gathered for each step (ZeRO, Rajbhandari et al. 2020).
"""

import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding, get_abstract_mesh

from flax_vae.system.errors import UserError

MEMBERS_AXIS, DATA_AXIS, FSDP_AXIS = "members", "data", "fsdp"
BATCH_AXES = (DATA_AXIS, FSDP_AXIS)
EVERYWHERE, EACH_MEMBER = PartitionSpec(), PartitionSpec(MEMBERS_AXIS)
_SMALL = 2**12  # numbers of an array that is sooner kept than gathered


def data_mesh(batch_size: int, devices: int | None = None, fsdp: int = 1) -> Mesh | None:
    """A mesh of `devices` devices that share a batch; as many as there are and divide it, if None. None if that is one.

    Args:
        batch_size: images that are worked on together.
        devices: how many to use.
        fsdp: how many of them share the parameters as well.

    Raises:
        UserError: fewer devices than that, or a batch that they cannot share evenly.
    """
    mesh = ensemble_mesh(1, batch_size, devices, fsdp)
    return mesh if mesh.size > 1 else None


def ensemble_mesh(members: int, batch_size: int, devices: int | None = None, fsdp: int = 1) -> Mesh:
    """A mesh of as many groups of devices as divide the members, each of which shares its batches.

    Args:
        members: trainings in one program.
        batch_size, devices, fsdp: as for `data_mesh`.

    Raises:
        UserError: as for `data_mesh`.
    """
    there, kind = jax.device_count(), jax.default_backend()
    count = there if devices is None else devices
    if count > there:
        raise UserError(f"--devices {count}: there are {there} ({kind}).")
    if count % fsdp:
        raise UserError(f"--fsdp {fsdp} of {count} devices ({kind}): their number must be a multiple of it.")
    groups = math.gcd(members, count // fsdp)
    share = count // groups
    if batch_size % share and (devices is not None or jax.process_count() > 1):
        raise UserError(f"{share} devices cannot share a batch of {batch_size} images evenly: change --batch-size.")
    share = math.gcd(batch_size, share)
    if share % fsdp:
        raise UserError(f"--fsdp {fsdp}: as many devices cannot share a batch of {batch_size} images evenly.")
    shape, names = (groups, share // fsdp, fsdp), (MEMBERS_AXIS, *BATCH_AXES)
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[: groups * share])


def shardings(mesh: Mesh | None) -> tuple[Sharding, Sharding]:
    """Of an array that every device holds, and of one that they share by its second axis, batches "s b ..."."""
    if mesh is None:
        return (SingleDeviceSharding(jax.local_devices()[0]),) * 2
    return NamedSharding(mesh, EVERYWHERE), NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))


def parameter_shardings(mesh: Any, tree: Any, *lead: str) -> Any:
    """Where the arrays of a tree lie: the devices of `FSDP_AXIS` share the largest axis of each that they can evenly.

    Small arrays are whole on every device.

    Args:
        mesh: of the devices.
        tree: arrays, or their shapes.
        lead: axes of the mesh along which as many of these arrays are stacked, before their own.
    """
    parts = mesh.shape[FSDP_AXIS]

    def of(leaf: Any) -> NamedSharding:
        fits = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0]
        if parts == 1 or not fits or math.prod(leaf.shape) < _SMALL:
            return NamedSharding(mesh, PartitionSpec(*lead))
        shared = max(fits, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*lead, *(None,) * shared, FSDP_AXIS))

    return jax.tree.map(of, tree)


def sharing(mesh: Mesh) -> int:
    """How many devices share a batch."""
    return mesh.shape[DATA_AXIS] * mesh.shape[FSDP_AXIS]


def by_hand() -> bool:
    """Whether this is traced for a device's own share of a batch, within a `jax.shard_map` over those that share it."""
    return DATA_AXIS in get_abstract_mesh().manual_axes


def share(tree: Any, spec: PartitionSpec, mesh: Mesh | None) -> Any:
    """Within jit: the same arrays, shared by the devices of a mesh as the spec says."""
    if mesh is None or by_hand():
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(_here(mesh), spec))


def share_parameters(tree: Any, mesh: Mesh | None) -> Any:
    """Within jit: the same parameters, or what an optimiser keeps of them, where `parameter_shardings` has them."""
    if mesh is None or by_hand():
        return tree
    return jax.lax.with_sharding_constraint(tree, parameter_shardings(_here(mesh), tree))


def _here(mesh: Mesh) -> Any:
    """The mesh; within a `jax.shard_map` over members, as it is there."""
    around = get_abstract_mesh()
    return mesh if around.empty else around
