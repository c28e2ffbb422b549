"""The tokenizer of COCO's caption scores, without Java: words after the conventions of the Penn Treebank.

COCO's scorer runs the PTBTokenizer of Stanford CoreNLP 3.4.1 over all captions, one a line, in lower case, and then
takes punctuation away. The rules here were written after the published conventions of the Penn Treebank and by
observing what that program makes of lines fed to it. They give its tokens for captions in English. Not followed is what
it makes of some typing errors within addresses and abbreviations ("Sep.t."), of broken tags, and of
soft hyphens and combining marks after digits; `docs/scoring.md` says how rare that is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from mmjax.evaluation.metrics import ptb_characters as characters

# What COCO's scorer takes away, as far as a rule below gives it.
_TAKEN_AWAY = frozenset(["''", "'", "``", "`"])
_LINE_ENDS = re.compile("\r\n|[\n\r\v\f\u0085\u2028\u2029]")


def tokenize(captions: Sequence[str]) -> list[str]:
    """The tokens of each caption, in lower case and without punctuation, with a space between them.

    As in COCO's scorer, whether a full stop belongs to an initial can depend on how the next caption begins. A line end
    within a caption counts as a space. The official scorer does so for the common one, and loses count of its captions
    at the rare ones (a carriage return, U+2028).
    """
    pattern, makers = _scanner()
    lines: list[list[str]] = [[]]
    for match in pattern.finditer("\n".join(_LINE_ENDS.sub(" ", caption) for caption in captions)):
        if match[0] == "\n":
            lines.append([])
        elif (token := makers[match.lastgroup](match[0])) and token not in _TAKEN_AWAY:
            lines[-1].append(token.lower())
    return [" ".join(tokens) for tokens in lines][: len(captions)]


@cache
def _scanner() -> tuple[re.Pattern, dict[str, Callable[[str], str]]]:
    """One pattern with a named group for each rule, and what makes the token of a group's text."""
    rules = {f"rule{number}": rule for number, rule in enumerate(_rules())}
    pattern = "|".join(f"(?P<{name}>{pattern})" for name, (pattern, _) in rules.items())
    return re.compile(pattern), {name: make for name, (_, make) in rules.items()}


def _word(found: str) -> str:
    """The text as it stands, without soft hyphens."""
    return found.replace("\u00ad", "")


def _nothing(found: str) -> str:
    """A mark that COCO's scorer takes away."""
    return "'"


def _clitic(found: str) -> str:
    return found.replace("&apos;", "'").replace("\u2019", "'").replace("\x92", "'")


def _two(length: int) -> Callable[[str], str]:
    """Two tokens, the first of so many characters."""
    return lambda found: f"{found[:length]} {found[length:]}"


def _joined(found: str) -> str:
    """One token, whose spaces are no-break spaces."""
    return found.replace(" ", "\u00a0").replace("(", "-lrb-").replace(")", "-rrb-")


_VALUES = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_VALUES |= {"¢": "cents", "£": "#", "\x80": "$", "¤": "$", "\u20a0": "$", "€": "$"}
_VALUES |= {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "&lt;": "<", "&gt;": ">", "&amp;": "&"}
_CURLY = str.maketrans(
    {
        "\u2018": "`",
        "\u2019": "'",
        "\u201b": "`",
        "“": "``",
        "”": "''",
        "\u2039": "`",
        "\u203a": "'",
        "«": "``",
        "»": "''",
    }
)

# Abbreviations that keep their full stop.
_TITLES = """
    adj adm adv al alex assn assoc asst atty attys ave bancorp bhd bldg blvd brig bros capt cf cie cmdr co col
    comdr corp cos cpl dept det dr drs elec ens esq est etc ext ft gen gov govs hon inc insp intl invt jos jr lieut
    lt ltd maj messrs mfg mlle mme mr mrs ms msgr mt mtg natl pfc ph plc pres prof profs pte
    ptes pty ptys pvt rd rep reps rev rt sen sens seq sfc sgt spc sq sr st ste supt supts sys tel treas univ vs wm
"""
_MONTHS_AND_DAYS = "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri"
_STATES = "ala ariz calif colo conn ct dak fla ga ind kan ky md mich minn mo neb nev okla penn tenn va vt wis wyo"
# States whose abbreviation is a word as well: with a capital alone.
_STATES_AND_WORDS = "ark az del ill la mass miss ore pa tex wash"
_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"
# Where one of these follows, an initial is the end of a sentence and loses its full stop: "Vitamin C. The".
_OPENERS = """
    a about according after an as at but earlier he her here however if in it last many more now once one other our
    she since so some such that the their then there these they this we what when while yet you
"""
_FILES = """
    bat bmp c cgi cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql tar
    txt wav x xml zip
"""
_TWO_IN_ONE = "cannot|gonna|gotta|lemme|gimme|wanna"
_WITH_APOSTROPHE = "c'mon c'est e'er ne'er o'er ev'ry cap'n nat'l s'mores m'lady dunkin' somethin' nothin' li'l"


def _any(words: str) -> str:
    return "(?:" + "|".join(words.split()).replace("'", "['\u2019]") + ")"


def _rules() -> list[tuple[str, Callable[[str], str]]]:
    """What a token is: at each place the first pattern that fits makes one. A blank, a comma and so on fit none.

    Which quote, dash or ellipsis something is does not matter, since COCO's scorer takes all of them away.
    """
    w = f"[{characters.word_letters()}]"  # what a word goes on with
    a = f"[{characters.first_letters()}]"  # what it starts with
    h = f"[{characters.plain_letters()}{characters.digits()}]"  # what stands beside its hyphens
    d = f"[{characters.digits()}]"
    q = "(?:['\u2019\x92]|&apos;)"
    end, other = f"(?!{w})", f"(?=[^{characters.word_letters()}])"
    clitic = f"(?:\u2019(?i:s|m|d|ll|re|ve)|{q}(?i:s|m|d|ll|re|ve)(?![A-Za-z]))"
    name = f"(?:[DLOdlo]['\u2019`](?!(?i:ll|re|ve){end}){w}{{2,}})"
    hyphened = f"(?:[-\u2010\u2011](?:{name}|{h}+(?:_{w}+)*))+"
    stopped = f"{a}{w}*(?:\\.{a}{w}*)+"
    initials = f"[A-Za-z](?:\\.[A-Za-z])+\\.{end}"
    address, address_end = r'[^\s"<>(){}|]', r'[^\s"<>(){}|.,!?-]'
    return [
        # Line ends count the captions.
        ("\n", _word),
        # Most words, first for speed: letters before a space.
        (f"(?!(?i:{_TWO_IN_ONE})[ \n])[A-Za-z]+(?=[ \n])", _word),
        # Tags of a page are kept whole, and sums are not: <br /> but 3 < 5
        (r"<[!?][A-Za-z-][^<>\n]*>|</[A-Za-z][\w.:-]* *>", _joined),
        (r"<[A-Za-z][\w.:-]*(?: (?:[^<>=\n]|= *(?:'[^'\n]*'|\"[^\"\n]*\"))*)?/?>", _joined),
        # So are addresses of pages: http://x.org/a?b, x.org/a, www.x-y.org
        (f"(?i:https?://){address}+{address_end}", _word),
        (f"(?:{w}[\\w-]*\\.)+(?i:com|net|org|edu)(?:/{address}+{address_end}){end}", _word),
        (f"(?i:www\\.)(?:(?:[\\w-]+\\.)+{w}{w}+/{address}+{address_end}|(?:[\\w-]+\\.)*[\\w-]*{w}{w})", _word),
        # and those of people, with names and subjects of messages: me@x.org, @me, #dog
        (f'<?{w}{address}*@(?!\\.){address}*[^\\s"<>(){{}}|.]>?|@[A-Za-z_]\\w*|#{a}+', _word),
        # Smileys: :-) ^_^
        (rf"[<>]?[:;=][-o*']?[()DPdpO@{{|\[\]\\]{other}", _joined),
        (r"[-'<=>^~]_[-'<=>^~x]|\([-'<=>^~xX][-._]?[-'<=>^~xX]\)", _joined),
        # Quotes, dashes and dots go before what looks like the start of something else: ''s, --5, ...5
        (r"''|``|-{2,4}(?!-)|\.{3,}", _nothing),
        # Curly quotes that touch are one token, which may be none that is taken away: “‘stop’”
        ("[\u2018\u2019“”„\u2039\u203a«»]{2,}", lambda found: found.translate(_CURLY)),
        # Telephone numbers are one token: (212) 555-1234, +44 20 7946 0958
        (rf"\({d}{{2,4}}\)[- ]?{d}{{3,4}}[- ]?{d}{{3,5}}{end}", _joined),
        (rf"\+{{0,2}}(?:{d}{{2,4}}[- ]){{1,2}}{d}{{3,4}}[- ]?{d}{{3,5}}{end}", _joined),
        # Verbs and owners are split off: it's, dog's
        (clitic, _clitic),
        # So is "not", with the letters that a typing error joins to it: isn't, isn'ta
        (f"{w}*[^\\WnN_](?=[nN]{q}[tT])", _word),
        (f"[nN]{q}[tT]{a}*", _clitic),
        # Two words in one: cannot, 'tis
        (f"(?i:{_TWO_IN_ONE}){end}", _two(3)),
        ("['\u2019](?i:tis|twas)", _two(2)),
        # Words with an apostrophe in front: rock'n'roll, 'em, the '90s, May '68
        ("['\u2019](?:[nN](?:['\u2019]|(?=[ \n]))|(?i:em|till?|cause)|[2-9]0[sS]|" + f"{d}{d}(?=[ \n]))", _word),
        # within: O'Brien-Smith, N'Sync, c'mon, Hawai'i
        (f"{name}(?:{hyphened})?|[nA-HJ-XZ]['\u2019`](?!(?i:ll|re|ve){end}){a}{{2,}}|[oO]['\u2019][oO]{end}", _word),
        (f"(?i:{_any(_WITH_APOSTROPHE)})(?<!['\u2019](?={w}))", _word),
        (f"{a}+[aeiouyAEIOUY](?!{clitic})['\u2019`][aeiouA-Z]{a}*", _word),
        # and at the end: y'all, ol' man, l' eau
        (f"(?i:(?:[djl]|y(?=['\u2019]{a})|ol)(?!{clitic}))['\u2019]", _word),
        # Abbreviations keep their full stop: Mr., Dec., Mass., fig. 3
        (f"(?i:{_any(_TITLES)}|{_any(_MONTHS_AND_DAYS)}|{_any(_STATES)})\\.(?!{a})", _word),
        (f"(?=[A-Z])(?i:{_any(_STATES_AND_WORDS)})\\.(?!{a})", _word),
        (f"(?i:{_any(_BEFORE_NUMBERS)})\\.(?=[ \n]*{d})", _word),
        # So do several initials, and one that ends no sentence: U.S., non-U.S., U.S.-based, Ph.D., J. Smith
        (
            f"(?:{w}+-)*{w}(?:\\.{w})*\\.(?:-(?:{initials}|{w}+))+|(?:{w}+-)*{initials}|(?i:ph\\.d|ed\\.d)\\.(?!{a})",
            _word,
        ),
        (f"[A-Za-z]\\.(?!{a}|[ \n]+(?=[A-Z])(?i:mr\\.|ms\\.|{_any(_OPENERS)})[ \n])", _word),
        # and any word before another mark, as it does in an abbreviation: approx., and
        (f"(?:{a}{w}*(?:[.!?]{a}{w}*)+|{w}+(?:[-_]{w}+)*)\\.(?=[,;:])", _word),
        # Names of files: 1.jpg
        (f"{w}+(?:\\.{w}+)*\\.(?i:{_any(_FILES)})(?=[ \n,]|[.!?](?!{w}))", _word),
        # Dates and fractions: 12-25-2012, 5 1/2
        (f"{d}{{1,2}}[-/]{d}{{1,2}}[-/]{d}{{2,4}}(?![-/]?{w})", _word),
        (f"{d}{{1,4}}[- ]{d}{{1,4}}/{d}{{1,4}}", _joined),
        # Strokes join up to three words: and/or
        (r"[A-Za-z0-9]+(?:-[A-Za-z]+)*(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+)*){1,2}", _word),
        # Hyphens join any number, with the commas before: t-shirt, 3.5-inch, red,black-and-white
        (f"(?:[A-Za-z0-9][A-Za-z0-9.,]*|{stopped}|{h}+(?:_{w}+)*){hyphened}", _word),
        # A mark without a space does not part two words: end.The, what?yes
        (f"{a}{w}*(?:[.!?]{a}{w}*)+", _word),
        # Numbers have separators and a sign: 1,000.50 12:30 -5
        (f"[-+]?{d}*(?:[.,:]{d}+)+|[-+]{d}+", _word),
        # Brackets that are written out, and two prefixes that stand alone: -LRB-, pro- and anti-war
        ("-(?i:[LR][RSC]B)-|(?i:pro|anti)-", _word),
        # Names in capitals have signs: AT&T, US$, C++
        (r"S&P-500|[A-Z]+(?:(?:&|&amp;|\+)[A-Z]+)+", lambda found: found.replace("&amp;", "&")),
        (r"[A-Z]+\$|[Cc]\+\+|[CFcf]#", _word),
        # Other words and numbers, with letters that are escaped: dog, IMG_12, caf&eacute;
        (f"{w}*(?:&[A-Za-z]+(?:acute|grave|uml|circ|tilde|cedil);{w}*)+", _word),
        (f"{w}+(?:_{w}+)*", _word),
        # Brackets, currencies and fractions have other names: ( £ ½ &lt;
        (r"&(?:amp|lt|gt);|[" + re.escape("".join(key for key in _VALUES if len(key) == 1)) + "]", _VALUES.get),
        # Escapes of marks are marks, and numbered ones stand alone: &quot; &#39;
        (r"&(?:quot|apos|nbsp|mdash|ndash|MD);", _nothing),
        (r"&#\d+;", _word),
        # Marks in a row are one token where a single one is taken away, and other signs are one by themselves: ?! + ★
        (r"[!?]{2,}|[\u00b9\u00b2\u00b3\u2070-\u2079\u207f\u2080-\u2089]+|-{5,}|#+|\*+|@+|_+|<<|>>|\\\*", _word),
        (rf"[$%&+/<=>\\^|~{characters.symbols()}]", _word),
    ]
