"""Simple English stories from a stochastic grammar: each has one derivation, so its probability is known.

A story is a walk through BEATS. Each beat draws a value by its weights and writes its sentence from the
choices made so far; the weights may depend on one earlier choice (`given`). No model's cross-entropy on
these stories can be below entropy(), the floor.

Why a text has only one derivation: within a beat, after the same choices, no value's sentence is the
beginning of another's, because each ends with its own punctuation after its own words. So, reading from the
left, at most one value fits at each beat. derivations() tries all values anyway and counts; the tests demand
exactly one for thousands of texts.
"""

import functools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Weights = Mapping[str, float]
State = dict[str, str]

HE, SHE = ("he", "him", "his"), ("she", "her", "her")
PRONOUNS = {
    **dict.fromkeys(("Ben", "Otto", "Finn", "Leo", "Max", "Tom", "Karl", "Hugo", "Paul"), HE),
    **dict.fromkeys(("Mia", "Ruth", "Ada", "Nora", "Lily", "Ella", "Vera", "Ida", "Wilma"), SHE),
}
SPOTS: dict[str, Weights] = {
    "river": {
        "under the old bridge": 5, "among the reeds": 3,
        "behind the mill": 2, "inside a fishing boat": 1,
    },
    "forest": {
        "under the ferns": 4, "inside a hollow oak": 4,
        "behind the tall pines": 2, "near the fox den": 1,
    },
    "village": {
        "behind the bakery": 4, "under the market stalls": 3,
        "inside the bell tower": 2, "near the well": 2,
    },
    "hill": {
        "behind the windmill": 5, "among the grey rocks": 3,
        "inside the shepherd's hut": 2, "under the lone tree": 1,
    },
    "sea": {
        "among the dunes": 4, "under an upturned boat": 3,
        "inside a blue shell": 2, "behind the lighthouse": 2,
    },
    "lake": {
        "under the wooden pier": 5, "among the lilies": 3,
        "behind the boathouse": 2, "inside an empty barrel": 1,
    },
}  # fmt: skip
OBSTACLES: dict[str, Weights] = {
    "rainy": {
        "The path was full of puddles": 5, "The stream had swallowed the stones": 3,
        "Water ran down every step": 2,
    },
    "sunny": {
        "The road was long and dusty": 5, "The climb was steep and hot": 3,
        "A herd of goats blocked the lane": 2,
    },
    "windy": {
        "The wind pushed against every step": 5, "A fallen branch lay across the way": 3,
        "Leaves flew into their eyes": 2,
    },
    "snowy": {
        "The snow reached above their knees": 5, "Ice covered the narrow bridge": 3,
        "Their footprints vanished at once": 2,
    },
    "foggy": {
        "They could hardly see their own feet": 5, "They walked twice around the same rock": 3,
        "Every tree looked alike": 2,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Beat:
    """One choice: its name, its weights (a table, or one per value of the choice `given`), its sentence."""

    name: str
    weights: Weights | Mapping[str, Weights]
    write: Callable[[State], str]
    given: str = ""

    def options(self, state: State) -> Weights:
        """value -> probability, where `state` holds the earlier choices."""
        table = self.weights[state[self.given]] if self.given else self.weights
        total = sum(table.values())  # type: ignore[arg-type, union-attr]
        return {value: weight / total for value, weight in table.items()}  # type: ignore[operator, union-attr]


def _pronoun(role: str, case: int) -> Callable[[State], str]:
    """The pronoun of the hero or the friend: case 0 he, 1 him, 2 his."""
    return lambda state: PRONOUNS[state[role]][case]


_he, _him, _his = (_pronoun("hero", case) for case in range(3))
_friend_him = _pronoun("friend", 1)


def _line(template: str) -> Callable[[State], str]:
    """A sentence from a template of choices {name}; {he}, {He}, {him}, {his} (the hero) and {friend_him}."""

    def write(state: State) -> str:
        he = _he(state)
        hero = {"he": he, "He": he.capitalize(), "him": _him(state), "his": _his(state)}
        return template.format(**state, **hero, friend_him=_friend_him(state))

    # sentences before the choice of a friend mention none, but _friend_him needs a name: any will do
    return lambda state: write({"friend": "Tom", **state})


_AGAIN = {
    "no": lambda s: "",
    "yes": _line("{He} even asked the ducks, but they only laughed. "),
    "long": _line("{He} searched until noon and found nothing but an old boot. "),
}
_ASK = {
    "plain": _line('"Have you seen my {colour} {thing}?" asked {hero}. '),
    "polite": _line('"Excuse me," said {hero}, "I am looking for a {colour} {thing}." '),
    "sad": _line('"I have lost my {colour} {thing}," said {hero} with a sigh. '),
}
_END = {
    "home": _line("Then {hero} carried the {colour} {thing} home and slept well."),
    "share": _line("From that day on {hero} and {friend} shared the {colour} {thing}."),
    "sing": _line("All the way back to the {place} {hero} sang a song about the {colour} {thing}."),
    "never": _line("{hero} never lost the {colour} {thing} again."),
}

_FOUND = {
    "bright": _line("There, {where}, was the {colour} {thing}. "),
    "hidden": _line("The {colour} {thing} was {where}, under some straw. "),
    "broken": _line("They found the {colour} {thing} {where}, broken, so they mended it. "),
}

BEATS: tuple[Beat, ...] = (
    Beat("weather", {"rainy": 5, "sunny": 6, "windy": 3, "snowy": 2, "foggy": 2},
         lambda s: f"It was a {s['weather']} "),
    Beat("time", {"morning": 6, "afternoon": 3, "evening": 2, "Sunday": 1}, lambda s: f"{s['time']}. "),
    Beat("hero", {"Mia": 5, "Ben": 5, "Ruth": 3, "Otto": 3, "Ada": 3, "Finn": 3, "Nora": 2, "Leo": 2,
                  "Lily": 1, "Max": 1},
         lambda s: f"{s['hero']}, "),
    Beat("trait", {"small": 5, "brave": 4, "clever": 3, "quiet": 2, "curious": 2, "stubborn": 1},
         lambda s: f"a {s['trait']} "),
    Beat("animal", {"mouse": 5, "rabbit": 4, "hedgehog": 3, "otter": 3, "squirrel": 2, "badger": 2,
                    "goose": 1, "mole": 1},
         lambda s: f"{s['animal']}, "),
    Beat("place", {"river": 5, "forest": 5, "village": 4, "hill": 3, "sea": 3, "lake": 2},
         lambda s: f"lived near the {s['place']}. "),
    Beat("colour", {"red": 5, "blue": 4, "yellow": 3, "green": 2, "silver": 2, "striped": 1},
         _line("{He} had lost {his} {colour} ")),
    Beat("thing", {"kite": 5, "hat": 5, "ball": 4, "lantern": 3, "basket": 3, "drum": 2, "scarf": 2,
                   "whistle": 2, "map": 1, "key": 1, "spoon": 1, "umbrella": 1},
         lambda s: f"{s['thing']}. "),
    Beat("spot", SPOTS, _line("{He} looked {spot}, but the {thing} was not there. "), given="place"),
    Beat("again", {"no": 6, "yes": 3, "long": 2}, lambda s: _AGAIN[s["again"]](s)),
    Beat("friend_kind", {"an owl": 5, "a crow": 4, "a toad": 3, "a deer": 3, "a cat": 2, "a swan": 1},
         lambda s: f"Then {s['friend_kind']} "),
    Beat("friend", {"Tom": 5, "Ella": 5, "Karl": 3, "Vera": 3, "Hugo": 2, "Ida": 2, "Paul": 1, "Wilma": 1},
         lambda s: f"named {s['friend']} came by. "),
    Beat("ask", {"plain": 5, "polite": 3, "sad": 2}, lambda s: _ASK[s["ask"]](s)),
    Beat("where", {"in the barn": 5, "on the roof": 3, "by the gate": 3, "in the cellar": 2,
                   "in the tall tree": 2, "at the ford": 1},
         _line('"It is {where}," said {friend}, "come with me." ')),
    Beat("obstacle", OBSTACLES, lambda s: f"{s['obstacle']}, ", given="weather"),
    Beat("mood", {"but they went on": 5, "but they laughed": 3, "so they held hands": 2},
         lambda s: f"{s['mood']}. "),
    Beat("found", {"bright": 3, "hidden": 2, "broken": 1}, lambda s: _FOUND[s["found"]](s)),
    Beat("gift", {"a honey cake": 5, "a warm hug": 4, "three nuts": 2, "a flower": 2, "a poem": 1},
         _line("{hero} thanked {friend} and gave {friend_him} {gift}. ")),
    Beat("end", {"home": 4, "share": 3, "sing": 2, "never": 2}, lambda s: _END[s["end"]](s)),
)  # fmt: skip


@dataclass(frozen=True)
class Story:
    """A text and the log-probability, in nats, that the grammar writes exactly this text."""

    text: str
    log_probability: float


def stories(n: int, seed: int = 0) -> Iterator[Story]:
    """n stories drawn independently; a seed always gives the same stories.

    >>> print(next(stories(1, seed=1)).text.split(". ")[0])
    It was a rainy evening
    """
    if n < 0:
        raise ValueError(f"n={n}: cannot draw fewer than 0 stories")
    draw = random.Random(seed)
    for _ in range(n):
        state: State = {}
        parts, log_p = [], 0.0
        for beat in BEATS:
            options = beat.options(state)
            value = draw.choices(list(options), list(options.values()))[0]
            state[beat.name] = value
            log_p += math.log(options[value])
            parts.append(beat.write(state))
        yield Story("".join(parts), log_p)


def derivations(text: str) -> list[float]:
    """Log-probabilities of all walks that write exactly this text: one for a story, none for other texts."""
    found: list[float] = []

    def read(beat: int, at: int, state: State, log_p: float) -> None:
        if beat == len(BEATS):
            if at == len(text):
                found.append(log_p)
            return
        for value, p in BEATS[beat].options(state).items():
            after = {**state, BEATS[beat].name: value}
            sentence = BEATS[beat].write(after)
            if text.startswith(sentence, at):
                read(beat + 1, at + len(sentence), after, log_p + math.log(p))

    read(0, 0, {}, 0.0)
    return found


def log_probability(text: str) -> float:
    """Log of the summed probability of all derivations, in nats; -inf if the grammar cannot write it."""
    found = derivations(text)
    if not found:
        return -math.inf
    top = max(found)
    return top + math.log(sum(math.exp(x - top) for x in found))


@functools.cache
def entropy() -> float:
    """H = sum over beats of E[-log p(value | given)], in nats per story

    Exact, because a beat's weights depend on one choice at most. Since each text has one derivation, the
    entropy of the choices is the entropy of the texts.

    >>> round(entropy(), 3)
    28.762
    """
    marginal: dict[str, dict[str, float]] = {}  # beat -> value -> probability
    total = 0.0
    for beat in BEATS:
        contexts = marginal[beat.given] if beat.given else {"": 1.0}
        marginal[beat.name] = {}
        for context, weight in contexts.items():
            for value, p in beat.options({beat.given: context}).items():
                total -= weight * p * math.log(p)
                marginal[beat.name][value] = marginal[beat.name].get(value, 0.0) + weight * p
    return total
