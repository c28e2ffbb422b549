import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.ops.masks import AttentionMask


def ids(*values):
    return jnp.array([values], jnp.int32)


DRAWN = {
    "everything": (AttentionMask(query_segments=ids(1, 1, 1, 1)), "# # # #\n# # # #\n# # # #\n# # # #"),
    "causal": (AttentionMask(causal=True), "# . . .\n# # . .\n# # # .\n# # # #"),
    "window": (AttentionMask(causal=True, window=2), "# . . .\n# # . .\n. # # .\n. . # #"),
    "prefix": (
        AttentionMask(causal=True, prefix=jnp.array([[True, True, False, False]])),
        "# # . .\n# # . .\n# # # .\n# # # #",
    ),
    "blocks": (
        AttentionMask(causal=True, query_blocks=ids(0, 1, 1, 0), key_blocks=ids(0, 1, 1, 0)),
        "# . . .\n# # # .\n# # # .\n# # # #",
    ),
    "blocks within the window": (
        AttentionMask(
            causal=True,
            window=2,
            query_blocks=ids(0, 1, 1, 1),
            key_blocks=ids(0, 1, 1, 1),
            window_cuts_blocks=True,
        ),
        "# . . .\n# # # #\n. # # #\n. . # #",
    ),
    "allowed": (AttentionMask(allowed=jnp.array([[[False, True], [True, True]]])), ". #\n# #"),
    "packed": (
        AttentionMask(ids(1, 1, 2, 0), ids(1, 1, 2, 0), causal=True),
        "# . . .\n# # . .\n. . # .\n. . . .",
    ),
    "media": (AttentionMask(ids(0, 1, 1, 2), ids(1, 1, 2, 2)), ". . . .\n# # . .\n# # . .\n. . # #"),
    "cache": (
        AttentionMask(causal=True, query_positions=ids(2, 3), key_segments=ids(1, 1, 1, 1, 0)),
        "# # # . .\n# # # # .",
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_mask_equals_its_drawing(name):
    mask, drawing = DRAWN[name]
    lines = drawing.split("\n")
    grid = mask.dense(len(lines), len(lines[0].split()))
    assert grid.shape[0] == 1
    drawn = "\n".join(" ".join("#" if seen else "." for seen in row) for row in np.asarray(grid[0]))
    assert drawn == drawing


def test_docstring_shows_these_drawings():
    shown = "\n".join(line.strip() for line in inspect.getdoc(AttentionMask).split("\n"))
    for name, (mask, drawing) in DRAWN.items():
        if mask.window_cuts_blocks:
            continue  # told in words
        assert f"\n\n{drawing}\n\n" in shown, name


def test_prefix_reaches_over_the_window_but_not_over_segments():
    segments = ids(1, 1, 1, 1, 2, 0)
    mask = AttentionMask(segments, segments, prefix=jnp.array([[True] + [False] * 5]), causal=True, window=1)
    expected = np.eye(6, dtype=bool)
    expected[:4, 0] = True
    expected[5, 5] = False
    np.testing.assert_array_equal(mask.dense(6, 6)[0], expected)


def test_batch_is_one_where_nothing_depends_on_it():
    assert AttentionMask(causal=True).dense(3, 3).shape == (1, 3, 3)
    assert AttentionMask(key_segments=jnp.ones((4, 3), jnp.int32)).dense(2, 3).shape == (4, 2, 3)


def test_sees_all_only_without_rules():
    assert AttentionMask().sees_all
    assert not AttentionMask(causal=True).sees_all
    assert not AttentionMask(key_segments=ids(1)).sees_all


def test_mask_passes_through_jit_and_scan():
    masks = AttentionMask(query_segments=jnp.array([[[1, 2]], [[0, 2]]], jnp.int32), key_segments=None, causal=True)

    @jax.jit
    def grids(masks):
        return jax.lax.scan(lambda carry, mask: (carry, mask.dense(2, 2)), 0, masks)[1]

    expected = [[[[True, False], [False, False]]], [[[False, False], [False, False]]]]
    np.testing.assert_array_equal(grids(masks), expected)


@pytest.mark.parametrize("arguments", [{"window": 3}, {"causal": True, "window": 0}])
def test_window_without_meaning_is_refused(arguments):
    with pytest.raises(InputError, match="window"):
        AttentionMask(**arguments)
