"""Chat templates: what stands around the turns of a conversation, as each family of models was trained.

Control words are marked as such, so that they become tokens of their own; the same words in what a user says do not.
"""

from __future__ import annotations

import dataclasses

from mmjax.core.example import Text

Words = tuple[Text, ...]


@dataclasses.dataclass(frozen=True)
class Spelling:
    """What stands around the turns.

    system: the words that stand first where a conversation has none of its own. around_system: before and after them;
    where both are empty and they are the conversation's own, after_system follows. system_in_user: they begin the first
    turn of the user instead, with after_system between.
    user: before and after what the user says. asked: False leaves that out, but for pictures. breaks: line breaks
    between a picture and the user's words are kept. trimmed: white space around them is not.
    assistant: before an answer. answer: the learned text begins with it. end: after each answer, learned like it (of
    none, the end-of-chunk token); between: after that, if another turn follows.
    """

    system: str = ""
    around_system: tuple[Words, Words] = ((), ())
    after_system: str = "\n"
    system_in_user: bool = False
    user: tuple[Words, Words] = ((), ())
    asked: bool = True
    breaks: bool = True
    trimmed: bool = False
    assistant: Words = ()
    answer: str = ""
    end: Words = ()
    between: Words = ()


def _words(*pieces: str) -> Words:
    """Texts, of which those that look like <word> or [WORD] are control words."""
    return tuple(Text(piece, control=piece[0] in "<[" and piece[-1] in ">]") for piece in pieces)


_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
_HEADER = ("<|start_header_id|>", "<|end_header_id|>")
SPELLINGS = {
    "vicuna": Spelling(
        system=_VICUNA,
        after_system=" ",
        user=(_words("USER: "), _words(" ")),
        assistant=_words("ASSISTANT:"),
        answer=" ",
    ),
    "plain": Spelling(asked=False, breaks=False),
    "bare": Spelling(user=((), _words("\n")), breaks=False),
    "chatml": Spelling(
        around_system=(_words("<|im_start|>", "system\n"), _words("<|im_end|>", "\n")),
        user=(_words("<|im_start|>", "user\n"), _words("<|im_end|>", "\n")),
        assistant=_words("<|im_start|>", "assistant\n"),
        end=_words("<|im_end|>"),
        between=_words("\n"),
    ),
    "llama3": Spelling(
        around_system=(_words(_HEADER[0], "system", _HEADER[1], "\n\n"), _words("<|eot_id|>")),
        user=(_words(_HEADER[0], "user", _HEADER[1], "\n\n"), _words("<|eot_id|>")),
        trimmed=True,
        assistant=_words(_HEADER[0], "assistant", _HEADER[1], "\n\n"),
        end=_words("<|eot_id|>"),
    ),
    "gemma": Spelling(
        after_system="\n\n",
        system_in_user=True,
        user=(_words("<start_of_turn>", "user\n"), _words("<end_of_turn>", "\n")),
        trimmed=True,
        assistant=_words("<start_of_turn>", "model\n"),
        end=_words("<end_of_turn>"),
        between=_words("\n"),
    ),
    "mistral": Spelling(
        after_system="\n\n",
        system_in_user=True,
        user=(_words("[INST]", " "), _words("[/INST]")),
        answer=" ",
        end=_words("</s>"),
    ),
    "mistral_v1": Spelling(
        after_system="\n\n",
        system_in_user=True,
        user=((Text("[INST] "),), (Text(" [/INST]"),)),
        answer=" ",
        end=_words("</s>"),
    ),
}


def _all_words(spelling: Spelling) -> Words:
    return (*sum(spelling.around_system, ()), *sum(spelling.user, ()), *spelling.assistant, *spelling.end)


# Every control word that a template may ask a vocabulary for.
CONTROL_WORDS = frozenset(word.text for spelling in SPELLINGS.values() for word in _all_words(spelling) if word.control)
