import pytest

from mmjax.data.show import picture_uri
from mmjax.reporting.episodes import candidate_shares, episode_groups
from mmjax.reporting.pictures import stored_picture
from tests.reporting.fabricated_run import predictions, scans


@pytest.fixture
def groups(tmp_path):
    return {group.label: group for group in episode_groups(tmp_path, predictions(tmp_path, each=16))}


def test_some_right_and_some_wrong_of_each_task(groups):
    assert list(groups) == ["read single", "read scene", "bind 2-way", "bind 5-way"]
    for label in ("read single", "bind 2-way", "bind 5-way"):
        assert [card.correct for card in groups[label].cards] == [True] * 3 + [False] * 3
    asked = {card.question for card in groups["read scene"].cards if not card.correct}
    assert len(asked) == 3, "a family shows several of its kinds"


def test_controls_and_queries_without_pictures_are_left_out(groups):
    written = {card.prediction for group in groups.values() for card in group.cards}
    assert not written & {"BLANKED", "NOT KEPT"}


def test_a_card_shows_what_the_model_read(groups):
    card = groups["bind 2-way"].cards[-1]
    assert len(card.demonstrations) == 4 and card.question == "this is a"
    named = [shown for shown in card.demonstrations if shown.named]
    assert len(named) == 2 and {shown.named for shown in named} == {card.answer}
    assert {(shown.before, shown.after) for shown in named} == {("this is a ", ".")}
    assert all(shown.picture.startswith("data:image/png;base64,") for shown in card.demonstrations)
    assert card.prediction != card.answer and groups["bind 2-way"].detail == "2 shots"


def test_candidates_are_shares_with_the_right_answer_among_them(groups):
    assert candidate_shares({"a": -1000.0, "b": -1000.0}) == pytest.approx({"a": 0.5, "b": 0.5})
    for card in groups["read single"].cards:
        assert len(card.candidates) == 5 and card.more_candidates == 5
        assert [one.text for one in card.candidates if one.right] == [card.answer]
        assert card.candidates[0].chosen and card.candidates[0].text == card.prediction
    assert not groups["read scene"].cards[0].candidates


def test_of_many_shots_those_that_can_be_taken_in_are_shown(tmp_path):
    picture = picture_uri(scans()[0][0])

    def row(shots):
        demonstrations = [{"text": "this is a dax.", "image": None}] * shots
        return {"task": "bind", "shots": shots, "image": picture, "demonstrations": demonstrations, "correct": True}

    (group,) = episode_groups(tmp_path, [row(0), row(4), row(8), row(32)])
    assert group.detail == "8 shots" and group.cards[0].demonstrations[0].picture is None
    (group,) = episode_groups(tmp_path, [row(16), row(32)])
    assert group.detail == "16 shots"


def test_pictures_outside_the_workdir_are_not_read(tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("secret.png", "run/inside.png", "run/text.txt"):
        (tmp_path / name).write_bytes(b"x")
    folder = tmp_path / "run"
    assert stored_picture(folder, "inside.png") == "data:image/png;base64,eA=="
    for address in ("../secret.png", str(tmp_path / "secret.png"), "text.txt", "gone.png", "", None):
        assert stored_picture(folder, address) is None
