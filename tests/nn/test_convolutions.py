"""Convolution, upsampling and pooling against `jax.lax`: values, gradients, transformations, the choice of platform."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from flax_vae.nn.convolutions import add_bias, conv, max_pool, upsample_conv

# A float32 sum of n products is off by about sqrt(n) * 6e-8 of its typical size, and n is at most a few thousand here
# (a kernel's gradient sums over the batch and all pixels). Two such sums in different orders agree to 1e-5 of the
# largest entry with room to spare; a wrong tap or pixel shows up near 1.
TOLERANCE = 1e-5

# Sizes odd and even, down to one pixel; few and many channels in, which take different forms of the kernel's gradient.
SHAPES = [(1, 1, 3, 2), (2, 5, 1, 32), (7, 4, 32, 1), (7, 7, 17, 20)]  # height, width, channels in, channels out


def lax_conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def lax_upsample_conv(x, kernel):
    return lax_conv(x.repeat(2, 1).repeat(2, 2), kernel)


def lax_max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def values_and_gradients(f, *args):
    y, pull = jax.vjp(f, *args)
    return y, pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


def assert_close(actual, expected):
    def check(a, e):
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=0, atol=TOLERANCE * np.abs(e).max())

    jax.tree.map(check, actual, expected)


def assert_all_equal(f, reference, cases):
    """Compare all cases in one compilation, since compiling takes longer than computing."""
    run = jax.jit(lambda cases: [[values_and_gradients(f, *case) for f in (f, reference)] for case in cases])
    for actual, expected in run(cases):
        assert_close(actual, expected)


@pytest.mark.parametrize(("kernel_size", "shapes"), [((3, 3), SHAPES), ((1, 1), SHAPES[1:2]), ((4, 2), SHAPES[2:3])])
def test_conv_equals_lax(kernel_size, shapes):
    assert_all_equal(conv, lax_conv, [(normal(0, 3, h, w, i), normal(1, *kernel_size, i, o)) for h, w, i, o in shapes])


def test_upsample_conv_equals_repeat_and_conv():
    cases = [(normal(0, 3, h, w, i), normal(1, 3, 3, i, o)) for h, w, i, o in SHAPES]
    assert_all_equal(upsample_conv, lax_upsample_conv, cases)


def test_add_bias_equals_plus():
    cases = [(normal(0, 3, h, w, o), normal(1, o)) for h, w, _, o in SHAPES]
    assert_all_equal(add_bias, lambda x, bias: x + bias, cases)


def test_max_pool_equals_reduce_window():
    assert_all_equal(max_pool, lax_max_pool, [(normal(0, 3, h, w, 5),) for h, w in [(1, 1), (4, 7), (5, 6)]])


def test_max_pool_gradient_at_a_tie_is_a_subgradient():
    gradient = np.asarray(jax.jit(jax.grad(lambda x: max_pool(x).sum()))(jnp.zeros((1, 3, 4, 2))))
    assert (gradient >= 0).all()
    np.testing.assert_allclose(gradient.sum((1, 2)), 4.0)  # each 2x2 window passes on a gradient of 1


@pytest.mark.parametrize(("f", "reference"), [(conv, lax_conv), (upsample_conv, lax_upsample_conv)])
def test_vmap_over_images_and_kernels(f, reference):
    x, kernels = normal(0, 2, 3, 5, 4, 3), normal(1, 2, 3, 3, 3, 4)

    @jax.jit
    def run(x, kernels):
        return jax.vmap(lambda x, kernel: values_and_gradients(f, x, kernel))(x, kernels)

    actual = run(x, kernels)
    for member in range(2):
        expected = values_and_gradients(reference, x[member], kernels[member])
        assert_close(jax.tree.map(lambda a, member=member: a[member], actual), expected)


def test_inside_loops():
    """Train a tiny network of all three functions in a `while_loop` of `scan`s, and compare its final kernels."""
    kernels, x = (normal(0, 3, 3, 2, 8) / 4, normal(1, 3, 3, 8, 2) / 8), normal(2, 2, 7, 7, 2)

    def train(functions, kernels):
        conv, upsample_conv, max_pool = functions

        def loss(kernels):
            y = upsample_conv(jnp.tanh(max_pool(conv(x, kernels[0]))), kernels[1])
            return jnp.mean((y[:, :7, :7] - x) ** 2)

        def step(kernels, _):
            return jax.tree.map(lambda k, g: k - 0.1 * g, kernels, jax.grad(loss)(kernels)), None

        def round_of_steps(carry):
            return carry[0] + 1, lax.scan(step, carry[1], length=2)[0]

        return lax.while_loop(lambda carry: carry[0] < 2, round_of_steps, (0, kernels))[1]

    run = jax.jit(train, static_argnums=0)
    actual = run((conv, upsample_conv, max_pool), kernels)
    assert_close(actual, run((lax_conv, lax_upsample_conv, lax_max_pool), kernels))


def test_second_derivative():
    x, kernel = normal(0, 1, 3, 4, 2), normal(1, 3, 3, 2, 2)

    def penalty(f, kernel):
        return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(f(x, kernel))))(x) ** 2)

    run = jax.jit(jax.grad(penalty, argnums=1), static_argnums=0)
    assert_close(run(conv, kernel), run(lax_conv, kernel))


def test_platform_is_chosen_at_lowering():
    """A program for CPUs contains plain convolutions only, one for GPUs or TPUs only those of XLA."""
    x, kernel = normal(0, 2, 6, 6, 4), normal(1, 3, 3, 4, 4)

    def convolutions(f, platform):
        gradients = jax.jit(lambda x, kernel: jax.vjp(f, x, kernel)[1](x))
        program = export.export(gradients, platforms=[platform])(x, kernel).mlir_module()
        return sorted(re.findall(r"stablehlo\.convolution.* dim_numbers = (.*) \{batch_group_count", program))

    plain = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f], window = {pad = [[1, 1], [1, 1]]}"
    assert convolutions(conv, "cpu") == [plain, plain]
    for platform in ("cuda", "tpu"):
        assert convolutions(conv, platform) == convolutions(lax_conv, platform) != [plain, plain]
