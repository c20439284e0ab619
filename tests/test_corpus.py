"""The stories' probabilities are exact, the fables are a parallel corpus, a download is whole or absent."""

import hashlib
import http.server
import math
import re

import numpy as np
import pytest
from helpers import serving

from llmcore import corpus
from llmcore.corpus import texts

FABLES = 60  # the least that ships
STORIES = list(corpus.stories(500, seed=5))


@pytest.mark.slow
def test_a_story_has_one_derivation_and_its_probability():
    for story in STORIES:
        assert corpus.derivations(story.text) == [pytest.approx(story.log_probability, abs=1e-9)]
        assert corpus.log_probability(story.text) == pytest.approx(story.log_probability, abs=1e-9)


def test_another_text_has_none():
    text = STORIES[0].text
    for other in (text[:-1], text + " ", text.replace("It", "it"), text.replace(". ", "."), ""):
        assert corpus.log_probability(other) == -math.inf


def test_no_sentence_of_a_beat_begins_another():
    """The argument for one derivation, checked for every beat after each of many walks."""
    for story in STORIES[:100]:
        state = {}
        at = 0
        for beat in corpus.BEATS:
            options = {v: beat.write({**state, beat.name: v}) for v in beat.options(state)}
            sentences = [s for s in options.values() if s]
            assert not any(a != b and b.startswith(a) for a in sentences for b in sentences)
            assert len(set(options.values())) == len(options)
            value = max((v for v, s in options.items() if story.text.startswith(s, at)), key=lambda v: len(options[v]))
            at += len(options[value])
            state[beat.name] = value
        assert at == len(story.text)


@pytest.mark.slow
def test_the_entropy_is_the_mean_surprise_within_its_standard_error():
    surprise = -np.array([s.log_probability for s in corpus.stories(5000, seed=11)])
    error = surprise.std() / math.sqrt(len(surprise))
    assert abs(surprise.mean() - corpus.entropy()) < 4 * error
    assert error < 0.06


def test_probabilities_of_every_beat_sum_to_one():
    for story in STORIES[:50]:
        assert story.log_probability < 0
    for beat in corpus.BEATS:
        for context in beat.weights if beat.given else [""]:
            assert sum(beat.options({beat.given: context}).values()) == pytest.approx(1)


def test_stories_are_short_varied_and_repeatable():
    lengths = [len(s.text.split()) for s in STORIES]
    assert min(lengths) >= 40
    assert max(lengths) <= 125
    assert len({s.text for s in STORIES}) == 500
    words = {w for s in STORIES for w in re.findall(r"[A-Za-z']+", s.text)}
    assert 200 < len(words) < 450
    assert [s.text for s in corpus.stories(5, seed=5)] == [s.text for s in STORIES[:5]]
    with pytest.raises(ValueError, match="n=-1"):
        next(corpus.stories(-1))


def test_pronouns_agree_and_the_thing_comes_back():
    for story in STORIES[:500]:
        hero = story.text.split(". ")[1].split(",")[0]
        he = "He " if hero in ("Ben", "Otto", "Finn", "Leo", "Max") else "She "
        assert f". {he}had lost" in story.text
        thing = re.search(r"had lost h\w\w (\w+ \w+)\.", story.text).group(1)
        assert story.text.rstrip(".").count(thing) >= 3


def test_fables_are_a_parallel_corpus():
    english, chinese = corpus.fables("en"), corpus.fables("zh")
    assert len(english) == len(chinese) >= FABLES
    assert corpus.fables() == english + chinese
    for fable in english:
        assert 120 <= len(fable.text.split()) <= 220, fable.title
    for fable in chinese:
        han = len(re.findall(r"[\u4e00-\u9fff]", fable.text))
        assert 180 <= han <= 400, fable.title
        assert han > 0.75 * len(re.sub(r"\s", "", fable.text)), fable.title
    for language in (english, chinese):
        assert len({f.title for f in language}) == len(language)
        sentences = [s.strip() for f in language for s in re.split(r"[.!?。！？\n]", f.text)]
        long = [s for s in sentences if len(s.split()) >= 6 or (len(s.split()) == 1 and len(s) >= 12)]
        assert len(set(long)) == len(long)


def test_read_text_knows_names_paths_and_mistakes(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCORE_CACHE", str(tmp_path / "cache"))
    assert corpus.read_text("fables.en").count(corpus.END) == len(corpus.fables("en"))
    assert corpus.read_text("fables").count(corpus.END) == len(corpus.fables())
    path = tmp_path / "a.txt"
    path.write_text("低水 low", encoding="utf-8")
    assert corpus.read_text(path) == corpus.read_text(str(path)) == corpus.read_text(path.as_uri()) == "低水 low"
    path.write_text("  \n")
    with pytest.raises(ValueError, match="is empty: there is nothing to learn from"):
        corpus.read_text(path)
    path.write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match="byte 2: not UTF-8"):
        corpus.read_text(path)
    with pytest.raises(FileNotFoundError, match="is no file and no name of a text"):
        corpus.read_text("nothing")
    with pytest.raises(ValueError, match="language='fr'"):
        corpus.fables("fr")


CONTENT = b"To be, or not to be\n" * 5000


class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        type(self).asked += 1
        if self.path == "/missing.txt":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/cut.txt" else CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving(Handler, monkeypatch, tmp_path / "cache") as server:
        yield server


def use(monkeypatch, url, sha256=hashlib.sha256(CONTENT).hexdigest()):
    monkeypatch.setitem(texts.DATASETS, "shakespeare", corpus.Dataset(url, sha256, len(CONTENT)))


def test_a_download_is_made_once_and_serves_without_a_network(server, monkeypatch):
    use(monkeypatch, f"{server.address}/input.txt")
    before = Handler.asked
    assert corpus.shakespeare() == CONTENT.decode()
    server.shutdown()
    server.server_close()
    assert corpus.shakespeare() == CONTENT.decode()
    assert Handler.asked == before + 1
    assert len(list(corpus.cache_dir().iterdir())) == 1


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("cut.txt", ConnectionError, "bytes came"),
        ("missing.txt", ConnectionError, "answers 404"),
        ("changed.txt", ValueError, "does not have the SHA-256 expected"),
    ],
)
def test_what_is_not_whole_is_not_kept(server, monkeypatch, path, error, message):
    use(monkeypatch, f"{server.address}/{path}", "0" * 64 if path == "changed.txt" else hashlib.sha256(CONTENT).hexdigest())
    with pytest.raises(error, match=message):
        corpus.shakespeare()
    assert list(corpus.cache_dir().iterdir()) == []


def test_without_a_network_the_error_says_what_to_do(server, monkeypatch):
    server.shutdown()
    server.server_close()
    use(monkeypatch, f"{server.address}/input.txt")
    with pytest.raises(ConnectionError, match="cannot be reached .* put the file at"):
        corpus.shakespeare()


def test_a_damaged_cache_is_downloaded_again(server, monkeypatch):
    use(monkeypatch, f"{server.address}/input.txt")
    corpus.shakespeare()
    [cached] = corpus.cache_dir().iterdir()
    cached.write_bytes(b"damaged")
    assert corpus.shakespeare() == CONTENT.decode()


def test_the_address_of_shakespeare_is_complete():
    dataset = texts.DATASETS["shakespeare"]
    assert dataset.url.startswith("https://")
    assert re.fullmatch("[0-9a-f]{64}", dataset.sha256)
