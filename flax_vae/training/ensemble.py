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
from flax_vae.training.step import make_steps


def stack(trees: Sequence[Any]) -> Any:
    """Stack trees of arrays along a new leading axis of members."""
    if all(isinstance(leaf, np.ndarray | float) for leaf in jax.tree.leaves(trees[0])):
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
    return _stack_on_device(*trees)


@jax.jit
def _stack_on_device(*trees: Any) -> Any:
    """Stack trees in one program, which compiles faster than a program for each shape."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any, count: int) -> list[Any]:
    """Return the tree of each of `count` members."""
    return [jax.tree.map(itemgetter(i), tree) for i in range(count)]


def make_ensemble_steps(
    makers: Sequence[Callable[[Any], Any]], mesh: Mesh, out_shardings: Any, deal_microbatches: bool
) -> Callable[..., Any]:
    """Return a jitted `run(settings, state, totals, dispatch)`: `make_train_steps` for all members.

    The settings are (number of the step, its arguments), and a dispatch is (images, indices, start, stop). Everything
    is stacked except the images, `start` and `stop`. A member that skips every step stops; the others continue.

    Each step is compiled with its constants, as in the program of a single member, so that rounding, and Python
    branches on a setting, are the same.

    On CPUs members train one after another: the working set of one stays in the cache, and batched convolutions with
    differing kernels are slow. Elsewhere members train side by side (`vmap`) if all have the same step. For a single
    member, `vmap` would make the loop copy the state at every iteration; with several steps, it would compute all of
    them for each member.

    Args:
        makers: functions that make a step from its arguments, for the same mesh; see `training.step.make_step`.
        mesh: devices that split the members and their batches.
        out_shardings: shardings of state and totals.
        deal_microbatches: give each device of a batch its own microbatches; see `deals_microbatches`.
    """

    def train_all(members: Any, images: Any, start: Array, stop: Array) -> Any:
        def train(member: Any) -> Any:
            (number, arguments), state, totals, indices = member

            def train_by(make_step: Callable[[Any], Any]) -> Any:
                return lambda: make_steps(make_step(arguments))(state, totals, images, indices, start, stop)

            return jax.lax.switch(number, [train_by(make_step) for make_step in makers])

        in_turn = jax.default_backend() == "cpu" or len(makers) > 1 or len(jax.tree.leaves(members)[0]) == 1
        return (partial(jax.lax.map, train) if in_turn else jax.vmap(train))(members)

    def run(settings: Any, state: Any, totals: Any, dispatch: Any) -> Any:
        images, indices, start, stop = dispatch
        axes = BATCH_AXES if deal_microbatches else None  # JAX splits arrays along the axes that are not named
        of_images = PartitionSpec(None, axes) if indices is None else EVERYWHERE
        of_members = (EACH_MEMBER, EACH_MEMBER, EACH_MEMBER, PartitionSpec(MEMBERS_AXIS, None, axes))
        return jax.shard_map(
            train_all,
            mesh=mesh,
            axis_names={MEMBERS_AXIS, *(axes or ())},
            in_specs=(of_members, of_images, EVERYWHERE, EVERYWHERE),
            out_specs=EACH_MEMBER,
            check_vma=False,  # members do not depend on each other
        )((settings, state, totals, indices), images, start, stop)

    return jax.jit(run, donate_argnums=(1, 2), out_shardings=out_shardings)
