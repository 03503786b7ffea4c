"""Values of a batch that the likelihood does not take."""

import jax
import jax.numpy as jnp
import pytest
from known_models import linear_gaussian, params_of

from flax_vae import Batch, BernoulliLikelihood, PoissonLikelihood, UserError, encode
from flax_vae.batches import refuse_outside

VAE = linear_gaussian()
OF_PIXELS, OF_COUNTS = VAE.clone(likelihood=BernoulliLikelihood()), VAE.clone(likelihood=PoissonLikelihood())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["on the host", "on a device"])
def test_arrays_of_jax_are_checked_wherever_they_are(dtype: jnp.dtype) -> None:
    """The kind: values that are refused in an array of NumPy only.

    NumPy cannot compute in bfloat16, so such an array is reduced on its device, as all arrays of an accelerator are. A
    traced function knows the values of a concrete array, such as one that it closes over, but not of its arguments.
    """
    x = 255 * jnp.eye(4, dtype=dtype).reshape(4, 2, 2, 1)
    name = jnp.dtype(dtype).name
    for use in (encode, jax.jit(lambda *_: encode(OF_PIXELS, params_of(VAE), x), static_argnums=0)):
        with pytest.raises(UserError, match=f"x holds {name} from 0 to 255"):
            use(OF_PIXELS, params_of(VAE), x)
    with pytest.raises(UserError, match=f"x holds {name} from -255 to -?0; pass whole numbers"):
        refuse_outside(-x, OF_COUNTS)
    with pytest.raises(UserError, match=f"x holds {name} with fractions"):
        refuse_outside(x / 2, OF_COUNTS)
    with pytest.raises(UserError, match=f"x holds {name} from nan to nan"):
        refuse_outside(x.at[0].set(jnp.nan), OF_PIXELS)
    refuse_outside(Batch(x / 2, mask=x == 0), OF_COUNTS)
    refuse_outside(Batch(x, mask=x < 0), OF_PIXELS)  # no value is observed
    jax.eval_shape(lambda x: refuse_outside(x, OF_PIXELS), x)
