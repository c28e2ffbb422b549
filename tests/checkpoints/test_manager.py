"""Saving and restoring on simulated devices: bit-equal on any mesh, kept and removed by rule, refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as orbax
import pytest

from mmjax.checkpoints.leaves import name_leaves
from mmjax.checkpoints.manager import Checkpoints
from mmjax.core.errors import CheckpointError, InputError
from tests.checkpoints.train_states import CONFIG, abstract, assert_same, make_state, mesh, save


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("rows, columns", [(4, 2), (2, 4), (1, 1)])
def test_a_state_comes_back_bit_for_bit_on_any_mesh(directory, rows, columns):
    state = make_state(7, mesh(4, 2))
    with Checkpoints(directory) as checkpoints:
        assert save(checkpoints, 7, state, loss=1.5)
    like = abstract(state, mesh(rows, columns))
    with Checkpoints(directory) as checkpoints:
        restored = checkpoints.restore(like=like)
    assert_same(restored.state, state)
    assert jax.tree.structure(restored.state) == jax.tree.structure(state)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.sharding == b.sharding, restored.state, like)))
    assert (restored.step, restored.position, restored.config) == (7, {"slot": 56}, CONFIG)
    assert restored.metrics == {"loss": 1.5}
    assert restored.versions["jax"] == jax.__version__


def test_special_values_and_empty_leaves_come_back(directory):
    values = np.array([np.nan, -0.0, np.inf, -np.inf, 1e-45], np.float32)
    values.view(np.uint32)[0] |= 0x1234  # a NaN with a payload
    state = {"params": {"odd": jnp.asarray(values), "none": jnp.zeros((0, 4), jnp.bfloat16)}, "ema": None}
    with Checkpoints(directory) as checkpoints:
        save(checkpoints, 1, state)
        assert_same(checkpoints.restore(like=state).state, state)


def test_arrays_may_be_donated_as_soon_as_save_returns(directory):
    add_one = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = {"params": {f"w{index}": jnp.full((256, 1024), float(index)) for index in range(8)}}
    before = jax.tree.map(np.array, state)
    with Checkpoints(directory) as checkpoints:
        save(checkpoints, 1, state)
        for _ in range(5):
            state = add_one(state)
        restored = checkpoints.restore(like=abstract_single(state))
    assert_same(restored.state, before)


def abstract_single(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


def test_orbax_itself_reads_what_is_saved(directory):
    state = make_state(3, mesh(4, 2))
    with Checkpoints(directory) as checkpoints:
        save(checkpoints, 3, state)
    flat = name_leaves(state)
    named = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) for name, leaf in flat.items()}
    assert_same(orbax.load(directory / "3", named), flat)


def test_only_the_first_save_compiles_and_none_minds_a_transfer_guard(directory, caplog):
    state = make_state(1, mesh(4, 2))
    with Checkpoints(directory) as checkpoints:
        save(checkpoints, 1, state)
        with jax.log_compiles(), jax.transfer_guard("disallow"):
            save(checkpoints, 2, state)
            checkpoints.wait()
    assert not [record.message for record in caplog.records if "Compiling" in record.message]


def test_parts_are_read_without_the_rest(directory):
    state = make_state(5, mesh(4, 2))
    with Checkpoints(directory) as checkpoints:
        save(checkpoints, 5, state)
        like = {"params": abstract(state, mesh(1, 1))["params"], "nothing": {}}
        restored = checkpoints.restore(like=like, parts=("params",))
        assert restored.state.keys() == {"params"}
        assert_same(restored.state["params"], state["params"])
        with pytest.raises(InputError, match="no part 'parameters'"):
            checkpoints.restore(like=like, parts=("parameters",))


def test_every_leaf_that_does_not_fit_is_named_and_no_older_step_is_tried(directory):
    state = make_state(1, mesh(4, 2))
    with Checkpoints(directory, warn=pytest.fail) as checkpoints:
        save(checkpoints, 1, state)
        state["guard"]["extra"] = jnp.zeros((3,))
        save(checkpoints, 2, state)
        like = abstract(state, mesh(4, 2))
        del like["guard"]["extra"]
        like["guard"]["new"] = jax.ShapeDtypeStruct((), jnp.int32)
        like["params"]["decoder/blocks/bias"] = jax.ShapeDtypeStruct((25,), jnp.float32)
        like["params"]["resampler/latents"] = jax.ShapeDtypeStruct((8, 16), jnp.float32)
        with pytest.raises(CheckpointError) as raised:
            checkpoints.restore(like=like)
    message = str(raised.value)
    assert "4 of its leaves differ" in message
    assert "guard/extra: in the checkpoint only" in message
    assert "guard/new: not in the checkpoint" in message
    assert "params/decoder/blocks/bias: float32[24] in the checkpoint, float32[25] wanted" in message
    assert "params/resampler/latents: bfloat16[8, 16] in the checkpoint, float32[8, 16] wanted" in message


def tiny(value):
    return {"params": {"w": jnp.full((4,), value, jnp.float32)}}


def test_the_last_steps_and_the_best_one_are_kept(directory):
    with Checkpoints(directory, keep_last=2, keep_best=("score", "max")) as checkpoints:
        for step, score in [(1, 0.5), (2, 0.9), (3, float("nan")), (4, 0.1), (5, None), (6, 0.9)]:
            save(checkpoints, step, tiny(step), **({} if score is None else {"score": score}))
            checkpoints.wait()
            if step == 5:
                assert checkpoints.steps() == [2, 4, 5]
        assert checkpoints.steps() == [5, 6]  # 6 is as good as 2 and newer
    assert sorted(path.name for path in directory.iterdir()) == ["5", "6"]


def test_a_step_in_memory_is_not_written_twice_and_another_of_its_number_is_replaced(directory):
    with Checkpoints(directory) as checkpoints:
        assert save(checkpoints, 1, tiny(1.0))
        assert not save(checkpoints, 1, tiny(1.0))
        assert save(checkpoints, 2, tiny(2.0))
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.restore(1, like=tiny(0.0)).step == 1
        assert not save(checkpoints, 1, tiny(1.0))
        assert save(checkpoints, 2, tiny(20.0))
    with Checkpoints(directory) as checkpoints:
        assert_same(checkpoints.restore(like=tiny(0.0)).state, tiny(20.0))


def test_a_partial_read_does_not_count_as_the_state_in_memory(directory):
    with Checkpoints(directory) as checkpoints:
        save(checkpoints, 1, tiny(1.0))
    with Checkpoints(directory) as checkpoints:
        checkpoints.restore(like=tiny(0.0), parts=("params",))
        assert save(checkpoints, 1, tiny(3.0))


def test_wrong_requests_say_what_there_is(directory):
    with Checkpoints(directory) as checkpoints:
        with pytest.raises(CheckpointError, match="no good checkpoint; its steps are: none"):
            checkpoints.restore(like=tiny(0.0))
        save(checkpoints, 4, tiny(1.0))
        with pytest.raises(CheckpointError, match="no step 3; it has 4"):
            checkpoints.restore(3, like=tiny(0.0))
        with pytest.raises(InputError, match=r"params/key must be a jax\.Array of numbers"):
            save(checkpoints, 5, {"params": {"key": jax.random.key(0)}})
        with pytest.raises(InputError, match="configuration cannot be kept"):
            checkpoints.save(5, tiny(1.0), position={}, config={"path": directory})
        assert checkpoints.steps() == [4]
    for wrong in ({"keep_last": 0}, {"keep_best": ("loss", "least")}):
        with pytest.raises(InputError, match="keep_"):
            Checkpoints(directory, **wrong)


def test_a_save_that_cannot_start_says_where(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with (
        Checkpoints(tmp_path / "file") as checkpoints,
        pytest.raises(CheckpointError, match=r"saving .*file/1 failed: (NotADirectoryError|FileExistsError)"),
    ):
        save(checkpoints, 1, tiny(1.0))
