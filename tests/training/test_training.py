"""Training on a tiny random model: a stopped run goes on exactly, and what the pieces promise."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from random_bert import random_checkpoint, random_request

from secformer_jax.errors import UserError
from secformer_jax.functions import presets
from secformer_jax.models import transformer as bert
from secformer_jax.models.text import Encoded
from secformer_jax.training import arithmetic, distill, loop, penalty, recipe, state
from secformer_jax.training.batches import LENGTHS, Dataset
from secformer_jax.training.finetune import apply_bert, finetune, label_loss, trainable, with_head
from secformer_jax.training.student import keep_layers

TINY = dataclasses.replace(bert.SHAPES["tiny"], num_hidden_layers=1, initializer_range=0.2)
RECIPE = recipe.Recipe(epochs=2, learning_rate=1e-3, batch_size=4, evaluations=2)


@pytest.fixture(scope="module")
def data():
    request = random_request(TINY, 0, texts=16, length=8)
    return Dataset(request, np.arange(16, dtype=np.int32) % 2)


def falling(params):
    """A score that needs no model: higher, the smaller the classifier's bias."""
    return -float(np.abs(np.asarray(params["classifier"]["bias"])).sum())


def run(data, folder, progress=lambda done, total: None, chosen=RECIPE, model=None, save_seconds=1e9):
    model = model or random_checkpoint(TINY)
    return finetune(
        model, presets.preset("exact"), data, chosen, falling, folder, {}, progress=progress, save_seconds=save_seconds
    )


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return run(data, tmp_path_factory.mktemp("whole"))


class KilledError(Exception):
    pass


# Saved after each step; and only with each dev score, so that steps since then are done again.
@pytest.mark.parametrize("at, save_seconds, first", [(3, 0, 4), (5, 1e9, 5)])
def test_a_stopped_run_goes_on_exactly(data, whole, tmp_path, at, save_seconds, first):
    def kill(done, total):
        assert total == 8
        if done == at:
            raise KilledError

    with pytest.raises(KilledError):
        run(data, tmp_path / "stopped", kill, save_seconds=save_seconds)
    seen = []
    resumed = run(data, tmp_path / "stopped", lambda done, total: seen.append(done))
    assert seen == list(range(first, 9))
    assert resumed.history == whole.history and resumed.score == whole.score
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    layers, initial = (tree["bert"]["encoder"] for tree in (whole.params, random_checkpoint(TINY).params))
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, layers, initial)))
    # A run that has ended gives the same again without a step.
    jax.tree.map(np.testing.assert_array_equal, run(data, tmp_path / "stopped", kill).params, whole.params)


def test_the_best_parameters_are_kept(data, tmp_path):
    scores = iter((0.1, 0.9, 0.3, 0.2))
    seen = []

    def score(params):
        seen.append(jax.tree.map(np.array, params))
        return next(scores)

    trained = finetune(random_checkpoint(TINY), presets.preset("exact"), data, RECIPE, score, tmp_path, {})
    assert trained.score == 0.9 and [each["score"] for each in trained.history] == [0.1, 0.9, 0.3, 0.2]
    jax.tree.map(np.testing.assert_array_equal, trained.params, seen[1])
    assert [each["step"] for each in trained.history] == [2, 4, 6, 8]


def test_another_run_or_a_damaged_state_is_refused(data, tmp_path):
    run(data, tmp_path)
    with pytest.raises(UserError, match=r"other settings \(learning_rate, seed\)"):
        run(data, tmp_path, chosen=dataclasses.replace(RECIPE, seed=1, learning_rate=2e-3))
    deeper = random_checkpoint(dataclasses.replace(TINY, num_hidden_layers=2))
    with pytest.raises(UserError, match="another model's training"):
        run(data, tmp_path, model=deeper)
    (tmp_path / "state.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="can't be read"):
        run(data, tmp_path)


def test_a_loss_that_is_not_finite_is_refused(data, tmp_path):
    model = random_checkpoint(TINY)
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), model.params)
    with pytest.raises(UserError, match="the loss is nan at step 2: lower --learning-rate"):
        run(data, tmp_path, model=dataclasses.replace(model, params=broken))


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"learning_rate": 0.0}, {"warmup": 1.0}, {"dtype": "float64"}, {"seed": -1}]
)
def test_bad_recipes(change):
    with pytest.raises(UserError):
        dataclasses.replace(RECIPE, **change)


def test_state_holds_every_bit(tmp_path):
    tree = {"a": np.array([1e-40, np.pi], np.float32), "b": [np.int32(7)]}
    state.save(tmp_path / "s", tree, {"step": 3})
    found, about = state.load(tmp_path / "s", tree)
    assert about == {"step": 3} and found["b"][0] == 7 and found["b"][0].dtype == np.int32
    assert found["a"].tobytes() == tree["a"].tobytes()
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_schedule_and_decay():
    schedule = recipe.make_schedule(dataclasses.replace(RECIPE, learning_rate=1.0, warmup=0.2), 10)
    assert [round(float(schedule(i)), 3) for i in (0, 1, 2, 6, 10)] == [0, 0.5, 1, 0.5, 0]
    constant = recipe.make_schedule(distill.STATES_RECIPE, 10)
    assert [float(constant(i)) for i in (0, 9)] == pytest.approx([5e-5, 5e-5])
    decayed = recipe.decayed(random_checkpoint(TINY).params)
    layer = decayed["bert"]["encoder"]["layer"]["0"]
    assert layer["output"]["dense"] == {"kernel": True, "bias": False}
    assert layer["output"]["LayerNorm"] == {"scale": False, "bias": False}
    assert decayed["bert"]["embeddings"]["word_embeddings"] == {"embedding": True}


def test_epochs_hold_every_example_once_and_little_padding():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 65, 500)
    mask = (np.arange(64) < lengths[:, None]).astype(np.float32)
    data = Dataset(Encoded(mask.astype(np.int32), mask.astype(np.int32), mask), np.arange(500))
    batches = data.epoch(16, 1, 0)
    rows = np.concatenate(batches)
    assert len(batches) == data.batches_in_epoch(16) == 31 and all(len(batch) == 16 for batch in batches)
    assert len(set(rows.tolist())) == len(rows)
    again, other = data.epoch(16, 1, 0), data.epoch(16, 1, 1)
    assert all(np.array_equal(*pair) for pair in zip(batches, again, strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(batches, other, strict=True))
    padded = sum(data.batch(batch).input_ids.size for batch in batches)
    assert padded < 1.3 * lengths[rows].sum()
    for batch in batches:
        cut = data.batch(batch)
        assert cut.input_ids.shape[1] in LENGTHS and cut.attention_mask.sum() == lengths[batch].sum()


def test_bfloat16_is_near_float32(data):
    model, batch = random_checkpoint(TINY), data.batch(np.arange(4))
    for name in ("exact", "mpcformer"):
        wide, narrow = (
            apply_bert(TINY, model.head, presets.preset(name), model.params, batch, dtype=dtype)[0]
            for dtype in recipe.DTYPES
        )
        assert wide.dtype == narrow.dtype == np.float32
        assert 0 < np.abs(wide - narrow).max() < 0.05


def test_functions_to_train_with():
    assert trainable(presets.preset("mpcformer")) == presets.preset("mpcformer")
    secformer = trainable(presets.preset("secformer"))
    assert secformer.gelu.name == "fourier_segmented"
    assert (secformer.softmax.name, secformer.layer_norm.name) == ("two_quad", "exact")
    assert trainable(presets.preset("fast")) == presets.families()["exact/two_quad"]


def test_labels_loss():
    logits = np.array([[1.0, -1.0], [0.5, 2.0]], np.float32)
    expected = np.mean(np.logaddexp(*logits.T) - logits[[0, 1], [0, 1]])
    assert float(label_loss(logits, np.array([0, 1]))) == pytest.approx(float(expected), rel=1e-6)
    assert float(label_loss(np.array([[1.0], [4.0]]), np.array([2.0, 4.0]))) == pytest.approx(0.5)


def test_a_head_is_kept_where_it_fits():
    from secformer_jax.evaluation import tasks

    encoder = random_checkpoint(TINY, "embedding")
    headed = with_head(encoder, tasks.find("SST-2"), 0)
    assert headed.head == "classification" and headed.config.id2label == ("negative", "positive")
    assert with_head(headed, tasks.find("SST-2"), 1) is headed
    scored = with_head(headed, tasks.find("STS-B"), 0)
    assert (scored.head, scored.config.num_labels) == ("regression", 1)
    assert scored.params["classifier"]["kernel"].shape == (32, 1)
    kept, given = (each.params["bert"]["encoder"] for each in (scored, encoder))
    jax.tree.map(np.testing.assert_array_equal, kept, given)


def test_range_penalty():
    mask = np.array([[1.0, 1.0, 0.0]])
    scores = np.zeros((1, 1, 3, 3))
    scores[..., 2] = 100  # a masked key
    kept = {
        "layer.0.gelu": np.full((1, 3, 4), -10.0),
        "layer.0.softmax": scores,
        "layer.0.output.layer_norm": np.tile([-1.0, 1.0], (1, 3, 2)),
        "hidden_states.0": np.full((1, 3, 4), 1e6),
    }
    kept = jax.tree.map(lambda value: jax.numpy.asarray(value), kept)
    assert float(penalty.range_penalty(kept, mask, penalty.Ranges())) == pytest.approx(4.0)
    assert float(penalty.range_penalty(kept, mask, penalty.Ranges(gelu=10.0))) == 0
    wide = penalty.Ranges(gelu=10.0, variance=(2.0, 3.0))
    assert float(penalty.range_penalty(kept, mask, wide)) == pytest.approx(np.log(2) ** 2, rel=1e-3)


def test_stage_losses(data):
    teacher = random_checkpoint(dataclasses.replace(TINY, num_hidden_layers=2))
    student = keep_layers(teacher, (1,))
    batch = data.batch(np.arange(4))
    exact = presets.preset("exact")
    _, theirs = apply_bert(teacher.config, teacher.head, exact, teacher.params, batch)
    _, ours = apply_bert(student.config, student.head, exact, student.params, batch)
    assert float(distill.states_loss(theirs, theirs, batch.attention_mask, (0, 1))) == 0
    real = batch.attention_mask > 0
    pairs = np.broadcast_to((real[:, :, None] & real[:, None, :])[:, None], ours["layer.0.softmax"].shape)
    expected = np.mean(np.square(ours["hidden_states.1"] - theirs["hidden_states.2"])[real])
    expected += np.mean(np.square(ours["layer.0.softmax"] - theirs["layer.1.softmax"])[pairs])
    assert float(distill.states_loss(ours, theirs, batch.attention_mask, (1,))) == pytest.approx(expected, rel=1e-5)
    expected = np.mean(np.square(ours["hidden_states.1"] - theirs["hidden_states.2"])[real])
    found = distill.states_loss(ours, theirs, batch.attention_mask, (1,), scores=0.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    logits, soft = np.array([[2.0, 0.0]]), np.array([[0.0, 0.0]])
    expected = np.logaddexp(2, 0) - 1
    assert float(distill.logits_loss(logits, soft, np.array([0]))) == pytest.approx(float(expected), rel=1e-6)


def test_arithmetic_of_models():
    model, student, teacher = (random_checkpoint(TINY, seed=seed) for seed in (0, 1, 2))
    mean, moved = arithmetic.average([student, teacher]), arithmetic.transfer(model, student, teacher)
    np.testing.assert_allclose(head(mean), (head(student) + head(teacher)) / 2)
    np.testing.assert_allclose(kernel(moved), kernel(model) + kernel(student) - kernel(teacher), atol=1e-6)
    # The head is the model's own.
    np.testing.assert_array_equal(head(moved), head(model))
    other = random_checkpoint(dataclasses.replace(TINY, num_hidden_layers=2))
    with pytest.raises(UserError, match="different shapes have no mean"):
        arithmetic.average([model, other])
    with pytest.raises(UserError, match="models of different shapes: what changed"):
        arithmetic.transfer(model, other, teacher)


def head(model):
    return np.asarray(model.params["classifier"]["kernel"])


def kernel(model):
    return np.asarray(model.params["bert"]["encoder"]["layer"]["0"]["output"]["dense"]["kernel"])


def test_layers_that_do_not_fit():
    teacher = random_checkpoint(dataclasses.replace(TINY, num_hidden_layers=2))
    for layers in ((), (1, 0), (0, 0), (2,)):
        with pytest.raises(UserError, match="some of 0 to 1 in rising order"):
            keep_layers(teacher, layers)
    with pytest.raises(UserError, match="2 layers to follow"):
        distill.Pair(teacher, keep_layers(teacher, (1,)), (0, 1), presets.preset("fast"))


def test_clipping_bounds_a_step():
    optimizer = recipe.make_optimizer(dataclasses.replace(RECIPE, clip=1.0), 10)
    assert isinstance(optimizer, optax.GradientTransformation) and loop.SAVE_SECONDS > 0
    params = {"dense": {"kernel": np.ones((2, 2), np.float32)}}
    small, large = (
        optimizer.update({"dense": {"kernel": np.full((2, 2), scale, np.float32)}}, optimizer.init(params), params)
        for scale in (10.0, 1e6)
    )
    jax.tree.map(np.testing.assert_allclose, small[1], large[1])
