"""Several trainings in one program: every tree has a leading axis of members. A single run is an ensemble of one."""

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from flax_vae.training.sharding import BATCH_AXES, EACH_MEMBER, EVERYWHERE, MEMBERS_AXIS
from flax_vae.training.step import make_train_steps


def stack(trees: Sequence[Any]) -> Any:
    """One tree whose arrays have a leading axis of members."""
    on_host = isinstance(jax.tree.leaves(trees[0])[0], np.ndarray | float)
    return jax.tree.map(lambda *leaves: (np if on_host else jnp).stack(leaves), *trees)


def unstack(tree: Any, count: int) -> list[Any]:
    """The tree of each member."""
    return [jax.tree.map(itemgetter(i), tree) for i in range(count)]


def make_ensemble_steps(
    make_step: Callable[[Any], Any], mesh: Mesh, out_shardings: Any, dealt: bool
) -> Callable[..., Any]:
    """`run(own, state, totals, images, indices, start, stop)`: `make_train_steps` for all members at once.

    Everything but the images, `start` and `stop` is stacked. A member that skips every step stops; the others go on.

    A CPU's core trains its members one after the other: what one of them reads and writes stays in its caches, and
    convolutions whose kernels differ between members have no fast form. Other devices train theirs side by side, where
    they have several: side by side, a loop that members may leave copies the whole state in each step.

    Args:
        make_step: from the values that are a member's own to its train step, for the same mesh.
        mesh: devices that share the members, and their batches.
        out_shardings: where state and totals are.
        dealt: whether each device that shares a batch has microbatches of its own, as `each_has_its_own` says.
    """

    def train_all(own: Any, state: Any, totals: Any, images: Any, indices: Any, start: Array, stop: Array) -> Any:
        def train(member: tuple[Any, Any, Any, Any]) -> Any:
            own, state, totals, indices = member
            return make_train_steps(make_step(own))(state, totals, images, indices, start, stop)

        in_turn = jax.default_backend() == "cpu" or len(jax.tree.leaves(own)[0]) == 1
        return (partial(jax.lax.map, train) if in_turn else jax.vmap(train))((own, state, totals, indices))

    def run(own: Any, state: Any, totals: Any, images: Any, indices: Any, start: Array, stop: Array) -> Any:
        axes = BATCH_AXES if dealt else None  # along the others JAX shares what is in each group of devices
        of_images = PartitionSpec(None, axes) if indices is None else EVERYWHERE
        of_indices = PartitionSpec(MEMBERS_AXIS, None, axes)
        return jax.shard_map(
            train_all,
            mesh=mesh,
            axis_names={MEMBERS_AXIS, *(axes or ())},
            in_specs=(EACH_MEMBER, EACH_MEMBER, EACH_MEMBER, of_images, of_indices, EVERYWHERE, EVERYWHERE),
            out_specs=EACH_MEMBER,
            check_vma=False,  # what a member does depends on itself alone
        )(own, state, totals, images, indices, start, stop)

    return jax.jit(run, donate_argnums=(1, 2), out_shardings=out_shardings)
