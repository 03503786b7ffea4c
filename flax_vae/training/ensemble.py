"""Several trainings in one program: every tree has a leading axis of members. A single run is an ensemble of one."""

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from flax_vae.training.sharding import EACH_MEMBER, EVERYWHERE, MEMBERS_AXIS
from flax_vae.training.step import make_train_steps


def stack(trees: Sequence[Any]) -> Any:
    """One tree whose arrays have a leading axis of members."""
    on_host = isinstance(jax.tree.leaves(trees[0])[0], np.ndarray | float)
    return jax.tree.map(lambda *leaves: (np if on_host else jnp).stack(leaves), *trees)


def unstack(tree: Any, count: int) -> list[Any]:
    """The tree of each member."""
    return [jax.tree.map(itemgetter(i), tree) for i in range(count)]


def make_ensemble_steps(make_step: Callable[[Any], Any], mesh: Mesh, out_shardings: Any) -> Callable[..., Any]:
    """`run(own, state, totals, images, indices, start, stop)`: `make_train_steps` for all members at once.

    Everything but the images, `start` and `stop` is stacked; `make_step(own)` is the train step of a member, given the
    values that are its own, for the same mesh. A member that skips every step stops, and the others go on. Results are
    where `out_shardings` says.

    A CPU's core trains its members one after the other: what one of them reads and writes stays in its caches, and
    convolutions whose kernels differ between members have no fast form. Other devices train theirs side by side, where
    they have several: side by side, a loop that members may leave copies the whole state in each step.
    """

    def share(own: Any, state: Any, totals: Any, images: Any, indices: Array | None, start: Array, stop: Array) -> Any:
        def train(member: tuple[Any, Any, Any, Array | None]) -> Any:
            own, state, totals, indices = member
            return make_train_steps(make_step(own))(state, totals, images, indices, start, stop)

        in_turn = jax.default_backend() == "cpu" or len(jax.tree.leaves(own)[0]) == 1
        return (partial(jax.lax.map, train) if in_turn else jax.vmap(train))((own, state, totals, indices))

    specs = (EACH_MEMBER, EACH_MEMBER, EACH_MEMBER, EVERYWHERE, EACH_MEMBER, EVERYWHERE, EVERYWHERE)
    # What a member does depends on itself alone: there is nothing for JAX to check across devices.
    run = jax.shard_map(
        share, mesh=mesh, axis_names={MEMBERS_AXIS}, in_specs=specs, out_specs=EACH_MEMBER, check_vma=False
    )
    return jax.jit(run, donate_argnums=(1, 2), out_shardings=out_shardings)
