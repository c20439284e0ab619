"""Simple English stories from a known source: every text comes with its exact log-probability.

A model's cross-entropy on a text is  H(p, q) = H(p) + KL(p || q) >= H(p), p the source and q the model. For real text H(p)
is unknown, so a loss cannot say how good it is. Here p is the small grammar below, so the floor H(p) is a number:

    stories(n, seed)           n texts, each with ln p(text)        (walks the tree of choices, multiplying)
    log_probability(text)      ln p of any text                     (a parser: sums over ALL derivations)
    next_word_distribution(w)  p(next word | words so far), exact   (the same parser)
    entropy()                  H(p) in nats per story, exact        (one recursion over the rules)

Unit. p(text) is the probability of the complete story including its end. The grammar writes the mark END as the last word of
every story; `Story.text` leaves it out, so give a model one end token after each text and add its loss. What that token is
worth: where a story may stop (before its last sentence) or go on, -ln p(END | text) is about 0.7 nats; after the last
sentence 0. A tokenizer changes the number of tokens, never the nats of a story: sum a model's loss over all the tokens of a
story and its end, and compare with entropy(). The floor holds for one that sees the story from its first word.

Grammar. `RULES[rule]` maps each alternative to its weight; p(alternative) = weight / sum of the weights. In an alternative:

    word or mark      itself; words and marks are separated by spaces here and joined by `join`
    [rule]            one alternative of `rule`
    [slot:rule]       the same, and the words chosen are remembered as `slot` until the story ends
    [rule|slot]       one alternative of `"rule|" + value of slot`: what can happen depends on what was said
    {slot} {slot.they}  what was remembered, or its pronoun (`PRONOUNS`); no choice, probability 1

Unambiguous: a text has one derivation, so p(text) = p(derivation) and the entropy of the choices is the entropy of the texts.
Reason: the alternatives of each rule, given what is remembered, spell a prefix code: no text of one is equal to, or the
beginning of, a text of another (END closes the only place where one could be). In a concatenation of prefix codes, reading
from the left decides every choice; induction over the rules, which are not recursive, gives the claim for "story".
`tests/test_corpus.py` checks the premise exhaustively for every pair of alternatives and every remembered value that they
read, and the conclusion (number of derivations = 1) on thousands of stories.
"""

import math
import random
import re
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import NamedTuple

END = "<|endoftext|>"  # the last word of every story in the grammar; not part of Story.text

RULES: dict[str, dict[str, float]] = {
    "story": {"[opening] [plot]": 1},
    "plot": {
        "[losing] [search] [meeting] [plea] [rescue] [finding] [thanks] [homecoming] [closing]": 11,
        "[wishing] [search] [meeting] [request] [rescue] [finding] [thanks] [giving] [closing]": 9,
    },
    # Who, where, when. A snack is packed now and shared with the helper at the end.
    "opening": {
        "One [sky:sky] [time:time] , [hero:name] went to the [place:place] with some [food:food] .": 6,
        "[hero:name] was a [trait] {hero.child} . One [sky:sky] [time:time] {hero.they} took some [food:food] to the "
        "[place:place] .": 4,
        "It was a [sky:sky] [time:time] , and [hero:name] sat near the [place:place] eating some [food:food] .": 3,
    },
    "name": {"Mia": 9, "Tom": 8, "Lily": 7, "Ben": 6, "Anna": 5, "Leo": 5, "Rosa": 4, "Max": 4, "Nina": 3, "Sam": 3,
             "Emma": 2, "Finn": 2, "Ivy": 1, "Omar": 1},
    "trait": {"brave": 5, "quiet": 4, "curious": 3, "cheerful": 2, "clever": 2},
    "sky": {"sunny": 6, "rainy": 5, "windy": 4, "snowy": 2, "foggy": 2},
    "time": {"morning": 6, "day": 4, "afternoon": 3, "evening": 2},
    "food": {"bread": 6, "cake": 5, "cheese": 4, "nuts": 3, "honey": 2, "plums": 1},
    "place": {"forest": 7, "river": 5, "garden": 4, "beach": 3, "farm": 3, "mountain": 2, "market": 1},
    # What is missing: something of one's own, or a gift for somebody at home.
    "losing": {
        "{hero.They} had lost {hero.their} [colour:colour] [thing:toy] .": 5,
        "But {hero.their} [colour:colour] [thing:toy] was gone .": 4,
        "Where was {hero.their} [colour:colour] [thing:toy] ?": 2,
    },
    "wishing": {
        "{hero.They} wanted to find a [colour:colour] [thing:gift] for {hero.their} [kin:kin] .": 6,
        "{hero.Their} [kin:kin] was [low_spirits] , so {hero} hoped to bring {kin.them} a [colour:colour] [thing:gift] .": 4,
        "Nothing would please {hero.their} [kin:kin] more than a [colour:colour] [thing:gift] .": 2,
    },
    "colour": {"red": 7, "blue": 6, "green": 4, "yellow": 3, "white": 3, "golden": 2, "silver": 1},
    "toy": {"kite": 7, "ball": 6, "scarf": 5, "boat": 4, "drum": 3, "hat": 3, "doll": 2, "whistle": 2, "lantern": 1,
            "marble": 1},
    "gift": {"flower": 7, "shell": 5, "feather": 5, "stone": 4, "ribbon": 3, "button": 2, "bead": 1, "bell": 1},
    "kin": {"mother": 6, "sister": 5, "grandfather": 4, "brother": 3, "father": 3, "aunt": 2, "grandmother": 2, "uncle": 1},
    "low_spirits": {"ill": 5, "sad": 4, "tired": 3, "lonely": 2},
    # The search is in vain; where one can look depends on the place, what one feels on the weather.
    "search": {
        "{hero.They} looked [low|place] and [high|place] .": 5,
        "[weather|sky] {hero.They} searched [low|place] .": 4,
        "There was nothing [low|place] or [high|place] .": 3,
    },
    "low|forest": {"under the leaves": 4, "behind a log": 3, "in the ferns": 1},
    "low|river": {"among the reeds": 4, "under the boats": 2, "along the bank": 2},
    "low|garden": {"behind the roses": 4, "under the bench": 3, "between the beans": 1},
    "low|beach": {"in the sand": 5, "behind the rocks": 3, "under the nets": 1},
    "low|farm": {"under the cart": 4, "in the barn": 4, "behind the hens": 1},
    "low|mountain": {"behind the rocks": 4, "among the goats": 2, "in the grass": 2},
    "low|market": {"under the tables": 4, "behind the baskets": 3, "between the carts": 1},
    "high|forest": {"up in the oak": 4, "inside a hollow tree": 2},
    "high|river": {"in the old mill": 3, "on the little island": 2},
    "high|garden": {"up in the apple tree": 4, "on the shed": 2},
    "high|beach": {"in the lighthouse": 3, "on the pier": 2},
    "high|farm": {"on the haystack": 4, "up in the loft": 2},
    "high|mountain": {"on the ridge": 3, "inside an eagle nest": 1},
    "high|market": {"on the roofs": 2, "inside the clock tower": 3},
    "weather|sunny": {"The sun was hot .": 3, "Bees hummed in the warm light .": 2},
    "weather|rainy": {"Rain ran down {hero.their} neck .": 3, "Soon {hero.their} shoes were wet .": 3},
    "weather|windy": {"The wind pulled at {hero.their} hair .": 4, "Dry leaves flew everywhere .": 2},
    "weather|snowy": {"Snow covered every path .": 3, "{hero.Their} fingers were cold .": 2},
    "weather|foggy": {"{hero.They} could hardly see {hero.their} feet .": 3, "The fog was thick .": 2},
    # The obstacle depends on the place, the help on the obstacle.
    "meeting": {
        "By a [trouble:trouble|place] {hero.they} met [look] [helper:animal] .": 5,
        "Then a [trouble:trouble|place] was in the way , but [look] [helper:animal] came by .": 3,
        "At last {hero} reached a [trouble:trouble|place] , where [look] [helper:animal] sat .": 3,
    },
    "trouble|forest": {"deep hole": 4, "thick hedge": 3, "dark cave": 2},
    "trouble|river": {"broken bridge": 5, "muddy ditch": 2},
    "trouble|garden": {"high wall": 4, "thick hedge": 3, "locked gate": 2},
    "trouble|beach": {"steep cliff": 3, "dark cave": 2},
    "trouble|farm": {"locked gate": 4, "muddy ditch": 3, "high wall": 1},
    "trouble|mountain": {"steep cliff": 5, "dark cave": 2, "broken bridge": 1},
    "trouble|market": {"locked gate": 2, "high wall": 1},
    "look": {"an old": 6, "a kind": 4, "a little": 3, "a friendly": 2, "a sleepy": 1},
    "animal": {"owl": 7, "fox": 6, "rabbit": 5, "horse": 4, "cat": 3, "crow": 3, "bear": 2, "mouse": 2, "goat": 1,
               "badger": 1},
    "plea": {
        '" I lost my {colour} {thing} , " said {hero} .': 5,
        '" Have you seen my {colour} {thing} ? " asked {hero} .': 4,
        '" Why are you crying ? " asked the {helper} . " My {colour} {thing} is gone ! "': 3,
    },
    "request": {
        '" I need a {colour} {thing} for my {kin} , " said {hero} .': 5,
        '" Where can I find a {colour} {thing} ? " asked {hero} .': 4,
        "{hero} told the {helper} about {hero.their} {kin} .": 3,
    },
    "rescue": {"The {helper} [rescue|trouble] .": 7, "Without a word the {helper} [rescue|trouble] .": 3},
    "rescue|deep hole": {"dropped a rope into the hole": 4, "showed {hero.them} some steps in the hole": 2},
    "rescue|thick hedge": {"made a gap in the hedge": 3, "knew a tunnel under the hedge": 3},
    "rescue|dark cave": {"lit a lamp in the cave": 4, "led {hero.them} through the cave": 3},
    "rescue|broken bridge": {"put a plank across the bridge": 3, "carried {hero.them} over the water": 3},
    "rescue|muddy ditch": {"laid stones in the mud": 3, "pulled {hero.them} out of the mud": 2},
    "rescue|high wall": {"fetched a ladder for the wall": 4, "dug a way under the wall": 2},
    "rescue|locked gate": {"had a key to the gate": 4, "opened the lock with a nail": 1},
    "rescue|steep cliff": {"threw a rope down the cliff": 3, "knew an easy path up the cliff": 3},
    "finding": {
        "And there , [resting] , lay the {colour} {thing} .": 5,
        "Soon {hero} saw the {colour} {thing} [resting] .": 4,
        "What did {hero.they} see [resting] ? The {colour} {thing} !": 2,
    },
    "resting": {"on a stone": 4, "in the grass": 3, "beside a puddle": 2, "under an old hat": 1},
    # Everything said before comes back: the helper is thanked, the food shared, the thing brought home.
    "thanks": {
        '" Thank you , {helper} ! " said {hero} , and shared the {food} .': 5,
        "{hero} hugged the {helper} and gave it all the {food} .": 4,
        "They ate the {food} together , {hero} and the {helper} .": 3,
    },
    "homecoming": {
        "{hero} ran home with the {colour} {thing} .": 5,
        "That night the {colour} {thing} lay beside {hero.their} bed .": 4,
        "{hero.They} never lost the {colour} {thing} again .": 3,
    },
    "giving": {
        "{hero.Their} {kin} loved the {colour} {thing} .": 5,
        "When {hero.their} {kin} saw the {colour} {thing} , {kin.they} [joy] .": 4,
        "At home {hero.they} gave the {colour} {thing} to {hero.their} {kin} .": 3,
    },
    "joy": {"smiled": 4, "laughed": 3, "danced": 2, "wept for joy": 1},
    "closing": {
        END: 10,
        f"{{hero}} and the {{helper}} stayed friends . {END}": 5,
        f"What a {{sky}} {{time}} it had been ! {END}": 3,
        f"[calm|sky] {END}": 2,
    },
    "calm|sunny": {"Slowly the sun went down .": 3, "The first stars came out .": 1},
    "calm|rainy": {"Outside , the rain had stopped .": 3, "A rainbow stood over the {place} .": 2},
    "calm|windy": {"Now the wind was still .": 1},
    "calm|snowy": {"Outside , the snow fell softly .": 1},
    "calm|foggy": {"Now the fog was gone .": 1},
}  # fmt: skip

SHE = {"they": "she", "them": "her", "their": "her", "They": "She", "Their": "Her", "child": "girl"}
HE = {"they": "he", "them": "him", "their": "his", "They": "He", "Their": "His", "child": "boy"}
PRONOUNS: dict[str, dict[str, str]] = {
    **dict.fromkeys(["Mia", "Lily", "Anna", "Rosa", "Nina", "Emma", "Ivy", "mother", "sister", "aunt", "grandmother"], SHE),
    **dict.fromkeys(["Tom", "Ben", "Leo", "Max", "Sam", "Finn", "Omar", "grandfather", "brother", "father", "uncle"], HE),
}


# --- the grammar as data ------------------------------------------------------------------------------------------------


class Read(NamedTuple):
    """`{slot}` or `{slot.pronoun}`."""

    slot: str
    pronoun: str

    def words(self, memory: "Memory") -> tuple[str, ...]:
        value = dict(memory)[self.slot]
        return (PRONOUNS[value][self.pronoun],) if self.pronoun else tuple(value.split())


class Choose(NamedTuple):
    """`[rule]`, `[slot:rule]`, `[rule|by]`, `[slot:rule|by]`."""

    slot: str
    rule: str
    by: str

    def options(self, memory: "Memory") -> "tuple[Option, ...]":
        return OPTIONS[f"{self.rule}|{dict(memory)[self.by]}" if self.by else self.rule]

    def remember(self, option: "Option", memory: "Memory") -> "Memory":
        """The memory after `option` was chosen; sorted, so that equal memories are equal keys."""
        return tuple(sorted({**dict(memory), self.slot: option.text}.items())) if self.slot else memory


Symbol = str | Read | Choose
Memory = tuple[tuple[str, str], ...]  # (slot, value) pairs, sorted


class Option(NamedTuple):
    text: str
    symbols: tuple[Symbol, ...]
    p: float


def _symbol(piece: str) -> Symbol:
    if read := re.fullmatch(r"\{(\w+)(?:\.(\w+))?\}", piece):
        return Read(read[1], read[2] or "")
    if choose := re.fullmatch(r"\[(?:(\w+):)?(\w+)(?:\|(\w+))?\]", piece):
        return Choose(choose[1] or "", choose[2], choose[3] or "")
    return piece


OPTIONS: dict[str, tuple[Option, ...]] = {
    rule: tuple(Option(text, tuple(map(_symbol, text.split())), w / sum(weights.values())) for text, w in weights.items())
    for rule, weights in RULES.items()
}
START: Symbol = Choose("", "story", "")


def vocabulary() -> list[str]:
    """Every word and mark that a story can contain, END included, sorted.

    >>> len(vocabulary()), vocabulary()[:3]
    (0, [])
    """
    pieces = {s for options in OPTIONS.values() for option in options for s in option.symbols}
    words = {s for s in pieces if isinstance(s, str)}
    return sorted(words | {word for pronouns in (SHE, HE) for word in pronouns.values()})


# --- words and text -----------------------------------------------------------------------------------------------------


def split(text: str) -> list[str]:
    """Words and marks.

    >>> split('"I see," said Tom.')
    ['"', 'I', 'see', ',', '"', 'said', 'Tom', '.']
    """
    return re.findall(rf"{re.escape(END)}|\w+|[^\w\s]", text)


def join(words: Iterable[str]) -> str:
    """The one text of these words; `join(split(text)) == text` for every story.

    >>> join(['"', 'I', 'see', ',', '"', 'said', 'Tom', '.'])
    '"I see," said Tom.'
    """
    text, quotes, glue = "", 0, True
    for word in words:
        closes = word == '"' and quotes % 2 == 1
        text += word if glue or closes or word in (".", ",", "?", "!") else " " + word
        quotes += word == '"'
        glue = word == '"' and not closes
    return text


# --- sampling: one walk down the tree of choices ------------------------------------------------------------------------


@dataclass(frozen=True)
class Story:
    """A text and ln p(text, END) in nats."""

    text: str
    log_probability: float


CUMULATIVE = {rule: list(accumulate(option.p for option in options))[:-1] for rule, options in OPTIONS.items()}


def stories(n: int, seed: int = 0) -> Iterator[Story]:
    """n independent stories; the same n and seed give the same stories on every machine.

    >>> print(next(stories(1)).text)
    """
    if n < 0:
        raise ValueError(f"n={n}: must be at least 0; pass the number of stories to draw")
    return _stories(n, random.Random(seed))


def _stories(n: int, rng: random.Random) -> Iterator[Story]:
    for _ in range(n):
        words: list[str] = []
        log_p, memory, pending = 0.0, {}, [START]
        while pending:
            symbol = pending.pop()
            if isinstance(symbol, str):
                words.append(symbol)
            elif isinstance(symbol, Read):
                words += symbol.words(tuple(memory.items()))
            else:
                rule = f"{symbol.rule}|{memory[symbol.by]}" if symbol.by else symbol.rule
                option = OPTIONS[rule][bisect(CUMULATIVE[rule], rng.random())]
                log_p += math.log(option.p)
                if symbol.slot:
                    memory[symbol.slot] = option.text
                pending += reversed(option.symbols)
        assert words.pop() == END
        yield Story(join(words), log_p)


# --- parsing: the forward algorithm, summing over all derivations -------------------------------------------------------

State = tuple[tuple[Symbol, ...], Memory]  # what is still to be written, and what is remembered
Beliefs = dict[State, tuple[float, int]]  # p(words so far, state) and the number of derivations that lead there


def _by_next_word(beliefs: Beliefs) -> dict[str, Beliefs]:
    """Expand every choice until a word stands first: word -> beliefs after it. Paths to the same state are added."""
    after: dict[str, Beliefs] = {}
    stack = [(pending, memory, p, n) for (pending, memory), (p, n) in beliefs.items() if pending]
    while stack:
        (first, *rest), memory, p, n = stack.pop()
        if isinstance(first, Read):
            stack.append(((*first.words(memory), *rest), memory, p, n))
        elif isinstance(first, Choose):
            for option in first.options(memory):
                stack.append(((*option.symbols, *rest), first.remember(option, memory), p * option.p, n))
        else:
            states = after.setdefault(first, {})
            p0, n0 = states.get((tuple(rest), memory), (0.0, 0))
            states[tuple(rest), memory] = (p0 + p, n0 + n)
    return after


def _total(beliefs: Beliefs) -> float:
    return math.fsum(p for p, _ in beliefs.values())


def _parse(text: str) -> Beliefs:
    """Beliefs after all words of `text` and END; empty where no derivation spells the text."""
    words = split(text)
    if join(words) != text or END in words:
        return {}
    beliefs: Beliefs = {((START,), ()): (1.0, 1)}
    for word in [*words, END]:
        beliefs = _by_next_word(beliefs).get(word, {})
    return beliefs


def log_probability(text: str) -> float:
    """ln p(text, END) in nats, summed over all derivations; -inf for a text that the grammar cannot write.

    >>> story = next(stories(1))
    >>> math.isclose(log_probability(story.text), story.log_probability)
    True
    >>> log_probability("It was a dark and stormy night.")
    -inf
    """
    p = _total(_parse(text))
    return math.log(p) if p else -math.inf


def derivations(text: str) -> int:
    """In how many ways the grammar writes `text`: 1 for every story, 0 for any other text."""
    return sum(n for _, n in _parse(text).values())


def _distribution(after: dict[str, Beliefs]) -> dict[str, float]:
    mass = {word: _total(states) for word, states in after.items()}
    whole = math.fsum(mass.values())
    return {word: p / whole for word, p in sorted(mass.items(), key=lambda pair: (-pair[1], pair[0]))}


def next_word_distribution(prefix: str | Iterable[str] = ()) -> dict[str, float]:
    """p(next word | all words so far), exact, likeliest first; the word END stands for the end of the story.

    `prefix` is a text or its words. ValueError where no story begins so, naming the first impossible word.

    >>> next_word_distribution("One sunny day, Mia")
    {'went': 1.0}
    >>> {word: round(p, 3) for word, p in next_word_distribution("One sunny").items()}
    {'morning': 0.4, 'day': 0.267, 'afternoon': 0.2, 'evening': 0.133}
    """
    beliefs: Beliefs = {((START,), ()): (1.0, 1)}
    for i, word in enumerate(split(prefix) if isinstance(prefix, str) else prefix):
        after = _by_next_word(beliefs)
        if word not in after:
            raise ValueError(f"prefix: no story has {word!r} as word {i}; there it can have {sorted(after)[:12]}")
        beliefs = after[word]
    after = _by_next_word(beliefs)
    if not after:
        raise ValueError(f"prefix: ends with {END}, after which nothing follows; leave it out")
    return _distribution(after)


def distributions(text: str) -> Iterator[tuple[str, dict[str, float]]]:
    """At each position of a story, END included: the word that stands there, and the true p(word | all words before).

    The surprisals -ln p[word] of a story add up to -log_probability(text): the chain rule.
    """
    beliefs: Beliefs = {((START,), ()): (1.0, 1)}
    for i, word in enumerate([*split(text), END]):
        after = _by_next_word(beliefs)
        if word not in after:
            raise ValueError(f"text: no story has {word!r} as word {i}; there it can have {sorted(after)[:12]}")
        yield word, _distribution(after)
        beliefs = after[word]


# --- closed forms: one recursion over the rules -------------------------------------------------------------------------


@cache
def _deciding(symbol: Symbol) -> frozenset[str]:
    """The slots whose values decide a choice somewhere below `symbol`."""
    if not isinstance(symbol, Choose):
        return frozenset()
    rules = [r for r in OPTIONS if r == symbol.rule or (symbol.by and r.startswith(symbol.rule + "|"))]
    below = (_deciding(s) for rule in rules for option in OPTIONS[rule] for s in option.symbols)
    return frozenset({symbol.by} - {""}).union(*below)


def _expectation(of_choice: Callable[[float], float], of_word: Callable[[str], float], read: str | None = None) -> float:
    """E[sum of of_choice(p) over the choices made + sum of of_word(word) over the words written].

    E(first, rest | memory) = sum_i p_i (of_choice(p_i) + E(symbols_i, rest | memory_i)) for a choice, and adds of_word for a
    word. A memory is kept only while a later choice depends on it, which keeps the recursion small. With `read` only the
    words of that slot's `{...}` are counted (and its value is kept): expectations add, so slots can be counted one by one.
    """

    @cache
    def rest(pending: tuple[Symbol, ...], memory: Memory) -> float:
        gain = 0.0
        for i, symbol in enumerate(pending):
            if isinstance(symbol, str):
                gain += of_word(symbol) if read is None else 0.0
            elif isinstance(symbol, Read):
                gain += sum(map(of_word, symbol.words(memory))) if symbol.slot == read else 0.0
            else:
                for option in symbol.options(memory):
                    later = option.symbols + pending[i + 1 :]
                    keep = frozenset({read}).union(*map(_deciding, later))
                    known = tuple(pair for pair in symbol.remember(option, memory) if pair[0] in keep)
                    gain += option.p * (of_choice(option.p) + rest(later, known))
                return gain
        return gain

    return rest((START,), ())


def _expected_length(of_word: Callable[[str], float]) -> float:
    slots = {s.slot for options in OPTIONS.values() for option in options for s in option.symbols if isinstance(s, Read)}
    return math.fsum(_expectation(lambda p: 0.0, of_word, read) for read in [None, *sorted(slots)])


@cache
def entropy() -> float:
    """H = E[-ln p(text, END)] in nats per story: the cross-entropy that no model can beat. Exact, no sampling.

    >>> round(entropy(), 3)
    0
    """
    return _expectation(lambda p: -math.log(p), lambda word: 0.0)


@cache
def expected_words() -> float:
    """E[number of words and marks of a story], without END.

    >>> round(expected_words(), 3)
    0
    """
    return _expected_length(lambda word: word != END)


@cache
def expected_characters() -> float:
    """E[len(text)]: a word brings its letters and one space, a mark itself only, a quotation mark moves one space.

    >>> round(expected_characters(), 3)
    0
    """
    return _expected_length(lambda word: 0 if word == END else 1 if word in '.,?!"' else len(word) + 1) - 1


def bits_per_character() -> float:
    """The floor in bits per character of a long run of stories: H / (ln 2 E[len(text)]).

    >>> round(bits_per_character(), 3)
    0
    """
    return entropy() / math.log(2) / expected_characters()
