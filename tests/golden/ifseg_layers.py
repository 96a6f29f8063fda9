"""The layers of IFSeg one by one, with their attention biases as whole matrices."""

import jax
import jax.numpy as jnp
import numpy as np
from ifseg_parts import compare

from hyperseg_jax.layers.linear import Linear
from hyperseg_jax.layers.norms import LayerNorm
from hyperseg_jax.llms import grid_positions
from hyperseg_jax.llms.ofa import EncoderLayer, SegmentationLayer
from hyperseg_jax.ops.sampling import resize_bilinear
from hyperseg_jax.systems.ifseg import model as ifseg


def linear(params, x):
    return Linear(params["kernel"].shape[1]).apply({"params": params}, x)


def norm(params, x):
    return LayerNorm().apply({"params": params}, x)


def heads(params, x, count):
    """Returns queries or keys of positions, [L, heads, head_dim]."""
    y = linear(params, x)
    return y.reshape(len(y), count, -1)


def absolute_bias(query, key):
    """Returns the products of positions as they are added to the scores, [heads, Lq, Lk]."""
    return jnp.einsum("qhd,khd->hqk", query, key, precision="highest") * (2 * query.shape[-1]) ** -0.5


def layer_params(params, i):
    return jax.tree.map(lambda x: jnp.asarray(x[i]), params["layers"])


def encoder_inputs(encoder, params, cells, words, ids):
    """Returns the tokens of the first layer, and which are no padding."""
    image = norm(params["image_norm"], cells.embedding + params["kinds"][1])
    text = norm(params["text_norm"], words + params["kinds"][0])
    valid = ids != ifseg.PADDING
    x = jnp.concatenate([image, jnp.where(valid[..., None], text, 0)], axis=1)
    return x, jnp.concatenate([jnp.ones(image.shape[:2], bool), valid], axis=1)


def run_encoder(case, model, params, cells, words, ids, positions):
    """Compares the inputs, outputs and biases of every layer of the encoder."""
    encoder, own = model.encoder, params["encoder"]
    canvas = cells.canvas
    resize = canvas.look_up() if cells.feature is None else canvas.resize_from(encoder.base)
    x, valid = encoder_inputs(encoder, own, cells, words, ids)
    places = tuple(heads(own[name], positions, encoder.num_heads) for name in ("place_query", "place_key"))
    count, length = canvas.grid[0] * canvas.grid[1], x.shape[1]
    fields = (encoder.num_heads, encoder.mlp_size, 0.0, True, encoder.precision, encoder.text_buckets, encoder.side)
    layer = EncoderLayer(*fields)
    for i in range(encoder.num_layers):
        one = layer_params(own, i)
        bias = absolute_bias(*places)
        grid = grid_positions.grid_bias(one["image_offsets"], encoder.side, resize, 0, canvas.grid[0])
        offsets = grid_positions.text_offsets(length - count, encoder.text_buckets)
        bias = bias.at[:, :count, :count].add(grid).at[:, count:, count:].add(jnp.moveaxis(one["text_offsets"][offsets], -1, 0))
        compare(case, f"enc.layer{i}.self_attn_bias", np.tile(bias, (len(ids), 1, 1)))
        compare(case, f"enc.layer{i}.in", x)
        x, _ = jax.jit(layer.apply)({"params": one}, x, jnp.zeros(()), places, valid, canvas, resize)
        compare(case, f"enc.layer{i}.out", x)
    return norm(own["norm"], x), valid


def run_decoder(case, model, params, cells, start, hidden, valid, positions):
    """Compares the inputs, outputs and biases of every layer of the decoder."""
    decoder, own, canvas = model.decoder, params["decoder"], cells.canvas
    count, side, rows = cells.embedding.shape[1], decoder.side, len(hidden)
    resize = canvas.resize_from((side, side))
    read = hidden[:, :count] if model.decoder_input == ifseg.DECODER_INPUTS[0] else cells.embedding
    x = norm(own["norm_in"], jnp.concatenate([jnp.broadcast_to(start, (rows, 1, len(start))), read], axis=1))
    table = jnp.asarray(own["positions"])
    resized = resize_bilinear(table[1:].reshape(1, side, side, -1), canvas.grid).reshape(count, -1)
    own_positions = norm(own["place_norm"], jnp.concatenate([table[:1], resized]))
    given = {"self_query": own_positions, "self_key": own_positions, "cross_query": own_positions, "cross_key": positions}
    places = tuple(heads(own[name], at, decoder.num_heads) for name, at in given.items())
    compare(case, "dec.cross_attn_bias", np.tile(absolute_bias(*places[2:]), (rows, 1, 1)))
    layer = SegmentationLayer(decoder.num_heads, decoder.mlp_size, 0.0, True, decoder.precision, side, decoder.causal)
    seen = lambda module, _: module.name == "cross_norm"
    for i in range(decoder.num_layers):
        one = layer_params(own, i)
        from_first, to_first, itself = grid_positions.token_to_grid(one["offsets"])
        relative = grid_positions.grid_bias(one["offsets"], side, resize, 0, canvas.grid[0])
        bias = absolute_bias(*places[:2])
        bias = bias.at[:, 1:, 1:].add(relative).at[:, 0, 1:].add(from_first[:, None])
        bias = bias.at[:, 1:, 0].add(to_first[:, None]).at[:, 0, 0].add(itself)
        compare(case, f"dec.layer{i}.self_attn_bias", np.tile(bias, (rows, 1, 1)))
        compare(case, f"dec.layer{i}.in", x)
        given = {"params": one}, x, jnp.zeros(()), hidden, places, valid, canvas, resize
        (x, _), state = layer.apply(*given, capture_intermediates=seen)
        compare(case, f"dec.layer{i}.out", x)
    asked = state["intermediates"]["cross_norm"]["__call__"][0]
    compare(case, "dec.last_cross_attn", cross_weights(one["cross"], asked, hidden, places[2:], valid))
    return norm(own["norm"], x)


def cross_weights(params, x, source, places, valid):
    """Returns the mean attention weights over heads, [B, Lq, Lk]."""
    count = places[0].shape[1]
    split = lambda y: y.reshape(*y.shape[:2], count, -1)
    query, key = split(linear(params["query"], x)), split(linear(params["key"], source))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, precision="highest") * (2 * query.shape[-1]) ** -0.5
    scores = jnp.where(valid[:, None, None], scores + absolute_bias(*places), -jnp.inf)
    return jax.nn.softmax(scores).mean(1)
