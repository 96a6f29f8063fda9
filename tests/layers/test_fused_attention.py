"""The language model with the TPU's attention kernel, interpreted on virtual devices."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax import axes
from hyperseg_jax import config as configs
from hyperseg_jax.layers import fused_attention
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.llms.phi import Phi
from hyperseg_jax.ops import fused_attention as kernels
from hyperseg_jax.parallel import placement
from hyperseg_jax.structs import TokenStream
from hyperseg_jax.training import flops

BATCH, LENGTH = 4, 256
PHI = Phi(32, 128, 128, num_layers=2, num_heads=2, rotary_fraction=0.5, remat="marked", precision=Precision(compute="bfloat16"))


@pytest.fixture
def tpu(monkeypatch):
    """Runs the kernel of a TPU, interpreted; returns the shapes that it is traced with."""
    traces = []

    def interpreted(*inputs, **options):
        traces.append(inputs[0].shape)
        return kernels.splash_attend(*inputs, **options, interpret=True)

    monkeypatch.setattr(axes, "platform", lambda: "tpu")
    monkeypatch.setattr(fused_attention, "MIN_LENGTH", 128)
    monkeypatch.setattr(fused_attention, "splash_attend", interpreted)
    return traces


def stream():
    embeddings = np.random.default_rng(0).normal(size=(BATCH, LENGTH, 128)).astype(np.float32)
    row = np.arange(LENGTH, dtype=np.int32)
    prompt = np.where(row < 100, 0, np.where(row < 150, 1, 2)).astype(np.int32)
    every = lambda x: np.broadcast_to(x, (BATCH, LENGTH))
    return TokenStream(embeddings, every(row), every(row < 220), every(np.ones_like(row)), every(prompt))


def loss_and_gradient(params, tokens):
    def loss(params, embeddings):
        hidden = PHI.apply({"params": params}, tokens.replace(embeddings=embeddings))
        weights = jax.random.normal(jax.random.key(1), hidden.shape) * tokens.mask[..., None]
        return (weights * hidden.astype(jnp.float32)).sum() / BATCH

    return jax.value_and_grad(loss, argnums=1)(params, tokens.embeddings)


def test_the_model_uses_the_kernel_on_every_shard(tpu, monkeypatch):
    params = jax.jit(PHI.init)(jax.random.key(0), stream())["params"]
    tpu.clear()
    with monkeypatch.context() as plain:
        plain.setattr(axes, "platform", lambda: "cpu")
        expected = jax.jit(loss_and_gradient)(params, stream())
    assert not tpu
    placed = placement.make("fsdp_tensor", {"fsdp": 2, "tensor": 2}, devices=jax.devices()[:4])
    with placement.use(placed):
        result = jax.jit(loss_and_gradient)(params, stream())
    assert set(tpu) == {(BATCH // 2, LENGTH, 1, 64)}
    np.testing.assert_allclose(result[0], expected[0], rtol=0.02)
    difference = np.abs(np.asarray(result[1]) - np.asarray(expected[1])).max()
    assert difference <= 0.02 * np.abs(np.asarray(expected[1])).max()


def test_small_shapes_and_other_dtypes_use_plain_attention(tpu):
    """The kernel does not compile for float16."""
    inputs = lambda length, width, dtype: [jnp.ones((1, length, 1, width), dtype)] * 3
    attend = functools.partial(fused_attention.fused_attend, precision="highest")
    half = jnp.bfloat16
    for length, width, dtype in ((64, 64, half), (256, 32, half), (256, 64, jnp.float32), (256, 64, jnp.float16)):
        attend(*inputs(length, width, dtype), mask=jnp.ones((1, 1, length, length), bool))
    assert not tpu


def test_flops_are_counted_without_kernels(tpu, monkeypatch):
    monkeypatch.setitem(flops.PEAKS, jax.devices()[0].device_kind, 1e12)
    config = configs.load("tiny")
    system = types.SimpleNamespace(build=lambda config: None, full_loss=lambda model, config: attention_loss)
    counter = flops.FlopCounter(config, system)
    inputs = {"x": jnp.ones((1, 256, 1, 64), jnp.bfloat16)}
    counter.trace_task("referring", types.SimpleNamespace(trainable=inputs, frozen={}, key=None), None)
    counter.add_step("referring")
    assert not tpu and counter.total == 6 * 2 * 256 * 256 * 64  # two products, and four in the backward pass


def attention_loss(params, batch, key):
    mask = jnp.ones((1, 1, 256, 256), bool)
    x = params["x"]
    return fused_attention.fused_attend(x, x, x, mask=mask, precision="default").astype(jnp.float32).sum(), {}


def test_a_gpu_without_cudnn_uses_plain_attention(monkeypatch):
    monkeypatch.setattr(axes, "platform", lambda: "gpu")
    inputs = [jnp.ones((1, 512, 1, 64), jnp.bfloat16)] * 3
    result = fused_attention.fused_attend(*inputs, mask=jnp.ones((1, 1, 512, 512), bool), precision="highest")
    np.testing.assert_array_equal(result, inputs[0])


@pytest.fixture
def gpu(monkeypatch):
    """JAX's cuDNN attention is traced as on a GPU of an old generation; it cannot run."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: False)
    monkeypatch.setattr(axes, "platform", lambda: "gpu")


def trace_gradient(attend, batch, length, width, heads=2):
    """Traces the gradient of a function of queries, keys, values and mask. Returns the program for a GPU."""
    x = jax.ShapeDtypeStruct((batch, length, heads, width), jnp.bfloat16)
    mask = jax.ShapeDtypeStruct((batch, 1, length, length), jnp.bool_)
    total = lambda *inputs: attend(*inputs).astype(jnp.float32).sum()
    return jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(x, x, x, mask).lower(lowering_platforms=("cuda",)).as_text()


PLAIN = lambda query, key, value, mask: fused_attention.fused_attend(query, key, value, mask=mask, precision="default")
CHECKPOINT = jax.checkpoint(PLAIN)


def scanned(query, key, value, mask):
    layer = jax.checkpoint(lambda x, _: (PLAIN(x, key, value, mask), None), prevent_cse=False)
    return jax.lax.scan(layer, query, None, length=2)[0]


@pytest.mark.parametrize("attend", [PLAIN, CHECKPOINT, scanned], ids=["plain", "checkpoint", "scan"])
@pytest.mark.parametrize(("length", "width", "fits"), [(512, 80, True), (513, 80, True), (512, 160, False), (512, 68, False)])
def test_a_gpu_uses_cudnn_where_it_fits(gpu, attend, length, width, fits):
    """JAX checks the sizes when it traces the backward pass, too late to choose another attention."""
    assert ("__cudnn" in trace_gradient(attend, 1, length, width)) == fits


def test_a_gpu_uses_cudnn_on_every_shard(gpu):
    with placement.use(placement.make("fsdp_tensor", {"fsdp": 2, "tensor": 2}, devices=jax.devices()[:4])):
        program = trace_gradient(CHECKPOINT, 2, 513, 80)
    calls = [line for line in program.splitlines() if "__cudnn" in line]
    assert len(calls) >= 2 and all("tensor<1x1x514x80xbf16>" in line for line in calls)


def test_heads_that_are_not_divisible_are_not_sharded(tpu):
    query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 256, 2, 64), jnp.bfloat16)
    mask = jnp.tril(jnp.ones((2, 1, 256, 256), bool))
    expected = PLAIN(query, key, value, mask)
    with placement.use(placement.make("fsdp_tensor", {"fsdp": 2, "tensor": 4}, devices=jax.devices()[:8])):
        with pytest.warns(UserWarning, match=r"act_heads of 2 is not divisible by 4 \(tensor\) and is not sharded"):
            result = jax.jit(PLAIN)(query, key, value, mask)
        with pytest.raises(ValueError, match="a batch of 1 rows cannot be split over 2 devices"):
            PLAIN(query[:1], key[:1], value[:1], mask[:1])
    np.testing.assert_array_equal(result, expected)


def test_the_platform_is_that_of_the_mesh():
    assert axes.platform() == "cpu"
    with placement.use(placement.make("data", devices=jax.devices()[:2])):
        assert axes.platform() == "cpu"
    described = jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((4,), ("data",), abstract_device=described)):
        assert axes.platform() == "tpu"
