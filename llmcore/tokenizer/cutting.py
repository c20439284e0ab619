"""Cutting a text into chunks before byte pairs merge: the published patterns, and limits for any other."""

import itertools
import math
from collections.abc import Callable
from typing import TypeVar

import regex

T = TypeVar("T")

# Published patterns: GPT-2's encoder.py and tiktoken's cl100k_base. "gpt4-han" is cl100k's, except that runs
# of Han characters are separate from other letters: in cl100k "用GPU" is one chunk and may become one token
# of two scripts.
SPLIT_PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+"
    ),
    "gpt4-han": (
        r"'(?i:[sdmt]|ll|ve|re)|\p{Han}+|[^\r\n\p{L}\p{N}]?+[\p{L}--\p{Han}]+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    ),
}
# Patterns of published models, not used for training here, by the names that GGUF files give them. "smollm"
# is GPT-2's with each digit cut out first, which SmolLM's tokenizer.json says in two steps; "llama-bpe" is
# from Llama 3's tokenizer.py.
PUBLISHED = {
    "gpt-2": SPLIT_PATTERNS["gpt2"],
    "smollm": r"\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+",
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
ANYTHING = r"[\s\S]+"
# Patterns whose matches leave no gaps in a text and take time linear in its length: they need no limit.
COVERING = {*SPLIT_PATTERNS.values(), *PUBLISHED.values(), ANYTHING}

# The processor time that any other pattern may take. The published ones take 1e-7 s per character.
SECONDS, SECONDS_PER_CHARACTER = 5.0, 2e-5
UNROLLED = 20_000  # parts that a pattern may have once compiling has written out its counted repetitions

# One part of a pattern: a set (with nested sets), an escape, a group's opening, a repetition, a character.
GROUP = r"\((?:\?(?:<?[=!]|P?<[A-Za-z]\w*+>|-?[aims]*+[:)]|>))?"
PART = regex.compile(
    r"(?P<set>\[\^?\]?(?:\\.|[^\[\]\\]|(?&set))*+\])|\\(?:[pP]\{[^}]*+\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|.)"
    rf"|{GROUP}|(?:[*+?]|\{{\d*+,?\d*+\}})[?+]?|.",
    regex.DOTALL,
)

# Hugging Face's regular expressions are Oniguruma's, in Ruby's syntax. There, a set difference is written
# with a lookahead, and ^ and $ match at the ends of lines; here, they match at the ends of the text.
HAN = (r"[\p{L}--\p{Han}]", r"(?:(?!\p{Han})\p{L})")
ANCHORS = {"^": r"(?:\A|(?<=\n)(?=[\s\S]))", "$": r"(?![^\n])"}
# Parts that both read alike: ESCAPE in sets and outside, ALIKE outside, ALIKE_SET a whole set. They leave
# out {2}? and {2}+, \h, \v, \Z, flags inside a pattern, and references to a group.
ESCAPE = r"\\(?:[pP]\{\^?[A-Za-z_]+\}|x[0-7][0-9A-Fa-f]|u[0-9A-Fa-f]{4}|[sSdDwWrntf]|[^\w\s]| )"
ALIKE = regex.compile(
    rf"{ESCAPE}|\\[AbB]|{GROUP}|[*+?][+?]?|\{{\d+(?:,\d*)?\}}|\{{\d+,\d*\}}\?|[^\\\[({{*+?]"
)
ALIKE_SET = regex.compile(rf"\[\^?(?![\]:])(?:{ESCAPE}|(?!--|\|\||~~|&&)[^\\\[\]]|(?R))+\]")

# Whether later text can change a chunk is known only for patterns of these parts: characters and sets,
# repeated or not, lookaheads, and groups that neither capture nor repeat. A lookbehind, an anchor or \b
# looks at text that was cut off; what a group captured lasts into the next chunk; and inside a repeated
# group the regex package does not always notice that it has reached the end of the text.
_SET = r"(?P<set>\[(?:\\.|[^\[\]\\]|(?&set))++\])"
_ESCAPE = r"\\[pP]\{[^{}]+\}|\\[sSdDwWrntfv]|\\[^\w\s]|\\x[\da-fA-F]{2}|\\u[\da-fA-F]{4}"
_CHARACTER = rf"(?:{_SET}|{_ESCAPE}|[^\\\[\](){{}}^$*+?|])"
_REPEAT = r"(?:[*+?]|\{\d+(?:,\d*)?\})\+?+(?![*+?{])"
_GROUP = r"\(\?(?:[is]*:|[>=!])|\)\??+(?![*+?{])|\|"
_KNOWN_PARTS = regex.compile(rf"(?:{_CHARACTER}(?:{_REPEAT})?+|{_GROUP})*+", regex.V1)


def portable(pattern: str) -> str:
    r"""A Hugging Face pattern, rewritten so that llmcore reads it alike. ValueError if that is impossible.

    >>> portable(r"\s+$")
    '\\s+(?![^\\n])'
    """
    out: list[str] = []
    for part in parts(pattern):
        fits = (ALIKE_SET if part[0] == "[" else ALIKE).fullmatch(part) is not None
        fits = fits and all(map(_alike, regex.findall(r"\\[pP]\{\^?(\w+)\}", part)))
        if part[:2] == "(?" and part[2] in "-aims":  # flags: only i means the same to both
            fits = part in ("(?i:", "(?-i:") or (part == "(?i)" and not out)
        if not fits:
            why = "which Hugging Face's regular expressions may read otherwise"
            raise ValueError(f"pattern {pattern!r} holds {part!r}, {why}")
        out.append(ANCHORS.get(part, part))
    return "".join(out)


def _alike(name: str) -> bool:
    """Whether a property is a category or a script; others may mean something else to Oniguruma."""
    try:
        return len(name) <= 2 or bool(regex.compile(rf"\p{{Script={name}}}"))
    except regex.error:
        return False


def compiled(pattern: str) -> regex.Pattern[str]:
    """The pattern, a name in SPLIT_PATTERNS or written out, compiled.

    ValueError if it is no regular expression, calls itself, sets unusual flags, or nests repetitions until
    it no longer fits into memory.
    """
    text = SPLIT_PATTERNS.get(pattern, pattern)
    unusual = next((a + b for a, b in itertools.pairwise(parts(text)) if a == "(" and b[0] == "?"), None)
    if unusual:  # (?R) can exhaust memory, (?r) skips text, (?#...) hides its content from parts()
        allowed = "( (?: (?= (?! (?<= (?<! (?> (?i: (?<name>"
        raise ValueError(
            f"pattern {pattern!r} has a group that begins with {unusual!r}: use one of {allowed}"
        )
    size = unrolled(text)
    if size > UNROLLED:
        written_out = f"{size:,} parts once its repetitions are written out"
        raise ValueError(f"pattern {pattern!r} has {written_out}: {UNROLLED:,} at most")
    try:
        return regex.compile(text, regex.V1)
    except (regex.error, RecursionError) as error:
        raise ValueError(
            f"pattern {pattern!r} is no regular expression that can be read ({error}): correct it"
        ) from error


def parts(pattern: str) -> list[str]:
    """A pattern's text, part by part: sets, escapes, group openings, repetitions, characters.

    >>> parts(r"(?:[a\\]]|\\p{L}){2,3}+")
    ['(?:', '[a\\\\]]', '|', '\\\\p{L}', ')', '{2,3}+']
    """
    return [match.group() for match in PART.finditer(pattern)]


def unrolled(pattern: str) -> int:
    """The approximate number of parts of the compiled pattern: x{n} counts as n times x, x+ as x x*.

    >>> unrolled("ab"), unrolled("(?:a{100}){100}"), unrolled("(?:(?:a+)+)+")
    (2, 10000, 8)
    """
    sizes, last = [0], 0  # sizes of the open groups, and of the part that a repetition here would repeat
    for part in parts(pattern):
        if part[0] == "(":
            last = 0
            if part[-1] != ")":  # else it sets flags and opens no group
                sizes.append(0)
        elif part == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif part[0] in "*+?" or (part[0] == "{" and len(part) > 1):
            least = part[1:].split("}")[0].split(",")[0] if part[0] == "{" else "2" if part[0] == "+" else "1"
            times = max(1, int(least[:9] or 1))
            sizes[-1] += last * (times - 1)
            last *= times
        else:
            last = 1
            sizes[-1] += 1
    return sum(sizes)


def cut(pattern: regex.Pattern[str], text: str) -> list[str]:
    """The text cut into the pattern's matches and the gaps between them; joined, they are the text.

    >>> cut(compiled(r"\\d+"), "of 1066, and")
    ['of ', '1066', ', and']
    """
    if pattern.pattern in COVERING:
        return pattern.findall(text)
    inner = in_time(
        pattern.pattern,
        text,
        lambda timeout: [b for m in pattern.finditer(text, timeout=timeout) for b in m.span()],
    )
    return [text[a:b] for a, b in itertools.pairwise([0, *inner, len(text)]) if a < b]


def decider(pattern: regex.Pattern[str]) -> regex.Pattern[str] | None:
    """A pattern for `decided`: its partial match finds the chunks (group 1) that no later text can change.

    It reads chunk after chunk, each as `pattern` alone would find it ((?>...) tries no second way), and
    characters outside any chunk one by one. As a whole it never matches ((?!)), so its partial match stops
    where something, be it a lookahead, first asks for a character beyond the end of the text. None for a
    pattern with parts of which this is not known.
    """
    if not _KNOWN_PARTS.fullmatch(pattern.pattern):
        return None
    return regex.compile(rf"(?:(?>({pattern.pattern})|(?s:.))())*+(?!)", regex.V1)


def decided(pattern: regex.Pattern[str], decider: regex.Pattern[str], text: str) -> list[str]:
    """The first pieces of `cut` that stay the same whatever follows the text.

    >>> digits = compiled(r"\\d+")
    >>> decided(digits, decider(digits), "of 1066, and 12")
    ['of ', '1066']
    """
    found = in_time(pattern.pattern, text, lambda timeout: decider.match(text, partial=True, timeout=timeout))
    spans = [b for span in found.spans(1) for b in span if span[1] <= found.end(2)] if found else []
    return [text[a:b] for a, b in itertools.pairwise([0, *spans]) if a < b]


def in_time(pattern: str, text: str, search: Callable[[float | None], T]) -> T:
    """The result of search(timeout), which applies a pattern to a text. ValueError if it takes too long.

    The published patterns have no limit: watching it would double their time.
    """
    limit = SECONDS + SECONDS_PER_CHARACTER * len(text)
    try:
        return search(None if pattern in COVERING else limit)
    except TimeoutError as error:
        raise ValueError(
            f"pattern {pattern!r} has not cut {len(text):,} characters within {math.ceil(limit)} s: "
            "where a repetition repeats what can be read in two ways, as in (a|aa)+, "
            "each character may double the time; write it without"
        ) from error
