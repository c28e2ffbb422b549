"""No token sees a picture of another example, whatever is packed into its row."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.core.example import Example, Media, Text
from mmjax.data.config import DataConfig, SourceEntry
from mmjax.data.stream import BatchStream
from mmjax.text.prompt import Layout
from mmjax.text.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
LENGTH, IMAGES = 64, 6
# A medium is None, a text is how many letters it has.
EXAMPLE = st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=7).filter(lambda parts: parts.count(None) <= 4)


class Numbered:
    """Examples whose pictures hold the number of the example and their own, in the colours red and green."""

    name = "numbered"

    def __init__(self, examples):
        self._examples = examples

    def __len__(self):
        return len(self._examples)

    def load(self, index, epoch):
        segments, pictures = [], itertools.count()
        for part in self._examples[index]:
            if part is None:
                frame = np.full((2, 2, 3), (index + 1, next(pictures) + 1, 0), np.uint8)
                segments.append(Media((lambda frame=frame: frame,)))
            else:
                segments.append(Text("x" * part, loss=True, end_of_chunk=True))
        return Example(f"numbered:{epoch}:{index}", tuple(segments))


def expected_pictures(parts, following):
    """Which picture of its example each token looks at, from Flamingo's words: the last before it, or the next."""
    owner, seen = [0], 0  # the first token stands before all
    for part in parts:
        seen += part is None
        owner += [seen] if part is None else [seen] * (part + 1)
    owner.append(seen)
    if not following:
        return owner
    is_picture = [
        False,
        *(flag for part in parts for flag in ([True] if part is None else [False] * (part + 1))),
        False,
    ]
    later = [number if here else number + 1 for number, here in zip(owner, is_picture, strict=True)]
    return [number if number <= seen else 0 for number in later]


@settings(max_examples=60)
@given(st.lists(EXAMPLE, min_size=1, max_size=30), st.sampled_from((0.0, 0.5, 1.0)), st.booleans())
def test_tokens_see_pictures_of_their_own_example_alone(examples, following, pack):
    config = DataConfig(
        sources={"numbered": SourceEntry("given")}, length=LENGTH, images=IMAGES, image_size=2, window=16, pack=pack,
        next_image_probability=following, max_bad_share=1.0, layout=Layout(),
    )  # fmt: skip
    source = Numbered(examples)
    stream = BatchStream(config, TOKENIZER, batch_size=4, seed=1, workers=0, sources={"numbered": source})
    for step in range(-(-len(examples) // 4)):
        item = stream.read(step)
        batch = item.batch
        for row, ids in enumerate(item.ids):
            numbers = [int(id.split(":")[2]) for id in ids.split("+")]
            for segment, number in enumerate(numbers, 1):
                here = batch.segment_ids[row] == segment
                looks_at = batch.media_index[row][here]
                seen = [tuple(batch.images[row, place - 1, 0, 0, :2]) if place else (0, 0) for place in looks_at]
                assert {owner for owner, _ in seen} <= {0, number + 1}
                pictures = [picture for _, picture in seen]
                allowed = [expected_pictures(examples[number], flag) for flag in (False, True)]
                assert pictures in (allowed[: 1 + (following > 0)] if following < 1 else allowed[1:])
            padding = batch.segment_ids[row] == 0
            assert not batch.media_index[row][padding].any()
            assert not batch.loss_weights[row][padding].any()
            shown = batch.media_index[row].max(initial=0)
            assert shown <= batch.image_mask[row].sum() == sum(examples[number].count(None) for number in numbers)
