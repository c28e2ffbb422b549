"""Continuous batching: each request writes what it writes alone, whatever stands beside it, without new programs."""

import threading

import jax
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.core.example import Text
from mmjax.decoding.generate import Generated, generate
from mmjax.decoding.prompt import Prompt
from mmjax.decoding.readers import RunReader
from mmjax.decoding.sampling import Sampling
from mmjax.decoding.scheduler import QueueFull, Request, Scheduler
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.decoding.tiny_models import LetterTokenizer, random_parameters, random_prompt, tiny_model

pytestmark = pytest.mark.usefixtures("quick_programs")

MODEL = tiny_model()
PARAMS = random_parameters(MODEL)
TOKENIZER = LetterTokenizer()
LENGTH = 96


@pytest.fixture(scope="module")
def reader():
    return RunReader(MODEL, PARAMS, TOKENIZER, most_pictures=4)


def greedy_request(seed):
    """Of up to 4 pictures and 70 tokens, or of text alone."""
    random = np.random.default_rng(seed)
    if seed % 4 == 3:
        prompt = Prompt((Text("".join(random.choice(list("abcdef"), 1 + seed))),))
    else:
        prompt = random_prompt(seed, chunks=int(random.integers(1, 5)), letters=int(random.integers(1, 15)))
    return Request(prompt, int(random.integers(1, 20)))


def drawn_request(seed):
    random = np.random.default_rng(seed)
    settings = {
        "temperature": random.uniform(0.5, 1.5),
        "top_k": int(random.integers(5, 20)),
        "top_p": random.uniform(0.8, 1.0),
        "min_p": random.uniform(0.0, 0.1),
        "repetition_penalty": random.uniform(1.1, 1.5),
        "no_repeat_ngram": int(random.integers(1, 4)),
        "min_tokens": int(random.integers(0, 6)),
    }
    prompt = random_prompt(seed, chunks=2, letters=int(random.integers(1, 10)))
    return Request(prompt, int(random.integers(1, 16)), Sampling(**settings, seed=seed))


GREEDY, DRAWN = [greedy_request(seed) for seed in range(8)], [drawn_request(seed) for seed in range(4)]
REQUESTS = GREEDY + DRAWN


@pytest.fixture(scope="module")
def expected():
    """What each writes alone: those that are drawn one by one, the greedy ones (whose rows have no keys) together."""
    most = max(request.max_tokens for request in GREEDY)
    found = []
    for request, whole in zip(GREEDY, write([one.prompt for one in GREEDY], most), strict=True):
        cut = min(request.max_tokens, len(whole.tokens))
        ended_by = whole.ended_by if cut == len(whole.tokens) else "length"
        tokens = whole.tokens[:cut]
        text = TOKENIZER.decode(tokens)
        found.append(Generated(text, tokens, whole.log_probabilities[:cut], ended_by))
    return found + [write([one.prompt], one.max_tokens, one.sampling)[0] for one in DRAWN]


def write(prompts, most, sampling=Sampling()):  # noqa: B008 (frozen)
    return generate(MODEL, PARAMS, TOKENIZER, prompts, max_tokens=most, sampling=sampling)


def check(replies, expected):
    for reply, own in zip(replies, expected, strict=True):
        written = reply.result(timeout=0)
        assert written.tokens.tolist() == own.tokens.tolist()
        assert (written.text, written.ended_by) == (own.text, own.ended_by)
        # As everywhere in float32: other programs round otherwise, by which instructions a processor has.
        scale = np.abs(own.log_probabilities).max(initial=0.0)
        np.testing.assert_allclose(written.log_probabilities, own.log_probabilities, rtol=0, atol=2e-5 * scale)


def test_a_mixed_load_writes_what_each_request_writes_alone(reader, expected):
    """Requests come at random times, in another order, into slots that others have left."""
    assert len({len(own.tokens) for own in expected}) > 4 and len({own.ended_by for own in expected}) > 1
    random = np.random.default_rng(0)
    scheduler = Scheduler(reader, slots=3, length=LENGTH)
    replies = {}
    for number in random.permutation(len(REQUESTS)):
        replies[number] = scheduler.submit(REQUESTS[number])
        for _ in range(random.integers(4)):
            scheduler.turn()
    scheduler.run()
    check([replies[number] for number in range(len(REQUESTS))], expected)
    assert scheduler.waiting == scheduler.writing == 0


def test_a_mixed_load_compiles_nothing_new(reader):
    """After one request of each bucket of lengths, drawn and greedy."""
    scheduler = Scheduler(reader, slots=3, length=LENGTH)
    for letters in (1, 40, 60):
        scheduler.submit(Request(Prompt((Text("a" * letters),)), 2))
        scheduler.run()
    scheduler.submit(DRAWN[0])
    scheduler.run()
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    try:
        replies = [scheduler.submit(request) for request in REQUESTS]
        scheduler.run()
    finally:
        jax.monitoring.clear_event_listeners()
    assert all(reply.done for reply in replies)
    assert not [name for name in compiled if "backend_compile" in name]


def test_pictures_are_encoded_once(reader, monkeypatch):
    encoded = []
    monkeypatch.setattr(
        reader._kept, "_encode", lambda table, own=reader._kept._encode: encoded.append(len(table)) or own(table)
    )
    scheduler = Scheduler(reader, slots=2, length=LENGTH)
    for _ in range(3):
        scheduler.submit(Request(random_prompt(777, chunks=3), 2))
    scheduler.run()
    assert encoded == [1, 1, 1]


def test_a_thread_streams_while_requests_come(reader, expected):
    heard = []
    with Scheduler(reader, slots=2, length=LENGTH) as scheduler:
        first = scheduler.submit(REQUESTS[0], on_piece=heard.append)
        replies = [first]

        def submit(request):
            replies.append(scheduler.submit(request))

        threads = [threading.Thread(target=submit, args=(request,)) for request in REQUESTS[1:6]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pieces = list(first)
        for reply in replies:
            reply.result(timeout=120)
    assert heard == pieces and len(pieces) == len(expected[0].tokens)
    assert "".join(piece.text for piece in pieces) == expected[0].text
    texts = sorted(reply.result().text for reply in replies)
    assert texts == sorted(own.text for own in expected[:6])
    with pytest.raises(QueueFull, match="closed"):
        scheduler.submit(REQUESTS[0])


def test_a_stop_string_ends_a_reply(reader):
    request = Request(Prompt((Text("abc"),)), 12, Sampling(temperature=1.0, seed=3, min_tokens=12))
    scheduler = Scheduler(reader, slots=2, length=LENGTH)
    free = scheduler.submit(request)
    scheduler.run()
    text = free.result().text
    stop = text[4:6]
    stopped = scheduler.submit(Request(request.prompt, 12, request.sampling, (stop,)))
    scheduler.run()
    written = stopped.result()
    assert written.ended_by == "stop" and written.text == text[: text.index(stop)]
    assert TOKENIZER.decode(written.tokens) == text[: text.index(stop) + 2]
    assert all(stop[0] not in piece.text for piece in list(stopped)[-2:])


def test_what_is_cancelled_leaves_its_slot(reader, expected):
    scheduler = Scheduler(reader, slots=1, length=LENGTH)
    endless = Request(Prompt((Text("abc"),)), 60, Sampling(min_tokens=60))
    running, waiting, last = scheduler.submit(endless), scheduler.submit(endless), scheduler.submit(REQUESTS[1])
    for _ in range(4):
        scheduler.turn()
    running.cancel()
    waiting.cancel()
    scheduler.run()
    check([last], expected[1:2])
    assert running.result().ended_by == waiting.result().ended_by == "cancelled"
    assert 2 <= len(running.result().tokens) <= 4 and len(waiting.result().tokens) == 0


def test_a_reader_that_fails_fails_its_request_only(reader, expected, monkeypatch):
    scheduler = Scheduler(reader, slots=2, length=LENGTH)

    def broken(prepared, length, own=reader.open):
        if len(prepared.tokens) == 4:
            raise InputError("the picture is gone")
        return own(prepared, length)

    monkeypatch.setattr(reader, "open", broken)
    bad, good = scheduler.submit(Request(Prompt((Text("abc"),)))), scheduler.submit(REQUESTS[0])
    scheduler.run()
    check([good], expected[:1])
    with pytest.raises(InputError, match="gone"):
        bad.result()
    with pytest.raises(InputError, match="gone"):
        list(bad)


def test_what_goes_wrong_on_the_device_is_told_to_all_that_wait_for_it(reader, expected, monkeypatch):
    with Scheduler(reader, slots=2, length=LENGTH) as scheduler:
        with monkeypatch.context() as patched:

            def failing(*_, **__):
                raise RuntimeError("out of memory")

            patched.setattr("mmjax.decoding.scheduler.step", failing)
            with pytest.raises(RuntimeError, match="out of memory"):
                scheduler.submit(Request(Prompt((Text("abc"),)), 9, Sampling(min_tokens=9))).result(timeout=120)
        again = scheduler.submit(REQUESTS[0])
        again.result(timeout=120)
    check([again], expected[:1])


def test_what_never_fits_is_refused_at_once(reader):
    scheduler = Scheduler(reader, slots=1, length=32, most_waiting=2)
    with pytest.raises(InputError, match="4 tokens and 29 to be written never fit into a slot of 32 places"):
        scheduler.submit(Request(Prompt((Text("abc"),)), 29))
    with pytest.raises(InputError, match="max_tokens"):
        scheduler.submit(Request(Prompt((Text("abc"),)), 0))
    with pytest.raises(InputError, match="5 pictures, and at most 4"):
        scheduler.submit(Request(random_prompt(1, chunks=5, letters=1), 1))
    fitting = Request(Prompt((Text("abc"),)), 28)
    scheduler.submit(fitting)
    scheduler.submit(fitting)
    with pytest.raises(QueueFull, match="2 requests wait"):
        scheduler.submit(fitting)
    short = tiny_model(positions="learned", max_length=20)
    limited = Scheduler(RunReader(short, random_parameters(short), TOKENIZER, most_pictures=1), slots=1, length=32)
    with pytest.raises(InputError, match="the model has 20 positions"):
        limited.submit(Request(Prompt((Text("abc"),)), 17))


def test_a_mesh_writes_the_same(expected):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    scheduler = Scheduler(RunReader(MODEL, PARAMS, TOKENIZER, most_pictures=4, mesh=mesh), slots=4, length=LENGTH)
    mixed = [*range(4), *range(8, 10)]
    replies = [scheduler.submit(REQUESTS[number]) for number in mixed]
    scheduler.turn()
    key = scheduler._slots.writing.cache.blocks["text"]["self_0"].key
    # Slots over the batch axes, heads over tensor.
    assert key.sharding.shard_shape(key.shape) == (key.shape[0], 1, LENGTH, 1, 8)
    scheduler.run()
    check(replies, [expected[number] for number in mixed])
