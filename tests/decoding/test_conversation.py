"""Conversations: only what is new is read, and what is written is what follows the whole of it, read anew."""

import pytest

from mmjax.core.errors import InputError
from mmjax.core.example import Text
from mmjax.data.sources.conversation import Message, open_conversation
from mmjax.decoding.conversation import Conversation
from mmjax.decoding.dialogue import RunDialogue
from mmjax.decoding.generate import generate
from mmjax.decoding.prompt import Prompt
from mmjax.decoding.readers import RunReader
from mmjax.decoding.sampling import Sampling
from mmjax.text.chat import Spelling
from tests.decoding.tiny_models import LetterTokenizer, picture, random_parameters, tiny_model

pytestmark = pytest.mark.usefixtures("quick_programs")

TOKENIZER = LetterTokenizer()
# Full attention, and a window that the conversation outgrows.
MODELS = {"full": tiny_model(), "windows": tiny_model(windows=(6, None))}
SPELLING = Spelling(user=((Text("qq"),), (Text("z"),)), assistant=(Text("a"),))


@pytest.fixture(scope="module", params=MODELS)
def reader(request):
    model = MODELS[request.param]
    return RunReader(model, random_parameters(model), TOKENIZER, most_pictures=4)


def written(conversation, most=6, **sampling):
    return [chosen.token for chosen in conversation.write(Sampling(**sampling), most)]


def whole(reader, prepared_for, most=6):
    """What `generate` writes after all turns."""
    [own] = generate(reader._model, reader.parameters, TOKENIZER, [prepared_for], max_tokens=most)
    return own.tokens.tolist()


def turn(*parts):
    return Message("user", parts)


def test_turns_are_read_once(reader):
    dialogue, conversation = RunDialogue(reader, picture_size=8, spelling=SPELLING), Conversation(reader, length=128)
    messages, held = [], 0
    for number, said in enumerate([turn(picture(1), "abc"), turn("de"), turn("f", picture(2), "g")]):
        messages.append(said)
        prepared = dialogue.prepare(messages)
        read = conversation.read(prepared)
        assert read == len(prepared.tokens) - held
        prompt = Prompt(tuple(segments_of(messages)))
        tokens = written(conversation)
        assert tokens == whole(reader, prompt), number
        # The last token was not read yet; the one that ends an answer is not written in the next prompt by its letters.
        held = conversation.held
        assert held == len(prepared.tokens) + len(tokens) - 1
        messages.append(Message("assistant", (dialogue.said(TOKENIZER.decode(tokens)),)))
    again = Conversation(reader, length=128)
    again.read(dialogue.prepare(messages[:-1]))
    assert written(again) == tokens


def segments_of(messages):
    return open_conversation(messages, SPELLING)


def test_turns_are_taken_back_and_changed(reader):
    dialogue, conversation = RunDialogue(reader, picture_size=8, spelling=SPELLING), Conversation(reader, length=128)
    first = [turn(picture(1), "abc"), Message("assistant", ("x",)), turn("hello")]
    conversation.read(dialogue.prepare(first))
    before = written(conversation)
    longer = [*first, Message("assistant", ("some",)), turn("more", picture(3), "words" * 5)]
    conversation.read(dialogue.prepare(longer))
    written(conversation)
    read = conversation.read(dialogue.prepare(first))
    # What a ring has written over must be read again.
    assert read == (1 if reader._model is MODELS["full"] else len(dialogue.prepare(first).tokens))
    assert written(conversation) == before
    other = [turn(picture(2), "abc"), *first[1:]]
    assert conversation.read(dialogue.prepare(other)) == len(dialogue.prepare(other).tokens)
    assert written(conversation) == whole(reader, Prompt(tuple(segments_of(other))))


def test_an_answer_is_drawn_as_generate_draws_it_and_may_be_stopped(reader):
    dialogue, conversation = RunDialogue(reader, picture_size=8, spelling=SPELLING), Conversation(reader, length=128)
    said = [turn("abc")]
    settings = {"temperature": 1.3, "top_k": 9, "seed": 4, "repetition_penalty": 1.3, "min_tokens": 5}
    conversation.read(dialogue.prepare(said))
    tokens = written(conversation, **settings)
    [own] = generate(
        reader._model,
        reader.parameters,
        TOKENIZER,
        [Prompt(tuple(segments_of(said)))],
        max_tokens=6,
        sampling=Sampling(**settings),
    )
    assert tokens == own.tokens.tolist()
    conversation.read(dialogue.prepare(said))
    writing = conversation.write(Sampling(**settings), 6)
    assert [next(writing).token for _ in range(3)] == tokens[:3]
    writing.close()
    prepared = dialogue.prepare(said)
    assert conversation.held == len(prepared.tokens) + 2
    longer = [*said, Message("assistant", (TOKENIZER.decode(tokens[:3]),)), turn("b")]
    assert conversation.read(dialogue.prepare(longer)) == len(dialogue.prepare(longer).tokens) - conversation_common(
        prepared.tokens, tokens, dialogue.prepare(longer).tokens
    )


def conversation_common(prompt, tokens, later):
    held = [*prompt.tolist(), *tokens[:2]]
    return next((n for n, (one, two) in enumerate(zip(held, later, strict=False)) if one != two), len(held))


def test_the_end_of_the_positions(reader):
    dialogue, conversation = RunDialogue(reader, picture_size=8, spelling=SPELLING), Conversation(reader, length=16)
    conversation.read(dialogue.prepare([turn("abcde")]))  # 10 tokens
    assert len(written(conversation, most=99, min_tokens=99)) == 6
    with pytest.raises(InputError, match="has 18 tokens and there are 16 positions"):
        conversation.read(dialogue.prepare([turn("abcdefghijklm")]))
    short = tiny_model(positions="learned", max_length=20)
    limited = RunReader(short, random_parameters(short), TOKENIZER, most_pictures=1)
    assert Conversation(limited, length=64).length == 20
