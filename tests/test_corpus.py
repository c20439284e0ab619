"""The stories' probabilities are exact, the fables are a parallel corpus, a download is whole or absent."""

import ast
import hashlib
import http.server
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import serving

from llmcore import corpus
from llmcore.corpus import texts
from llmcore.data import read_pieces
from llmcore.tokenizer import CharTokenizer
from llmcore.tokenizer.bpe_train import count_file

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
            fitting = [v for v, s in options.items() if story.text.startswith(s, at)]
            value = max(fitting, key=lambda v: len(options[v]))
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
    for name in (path, str(path), path.as_uri()):
        assert corpus.read_text(name) == "低水 low"
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
    expected = "0" * 64 if path == "changed.txt" else hashlib.sha256(CONTENT).hexdigest()
    use(monkeypatch, f"{server.address}/{path}", expected)
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


# ------------------------------------------------------------------------------------------ texts that change


class Changing(http.server.BaseHTTPRequestHandler):
    """A text that may change, with the validators that the first part of its address names."""

    text, status, asked = b"first", 200, []
    changed, now = "Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:09 GMT"

    def do_GET(self):
        kind, mine = self.path.split("/")[1], type(self)
        tag = f'"{hashlib.sha256(self.text).hexdigest()[:9]}"'
        held = {k: self.headers[k] for k in ("If-None-Match", "If-Modified-Since") if k in self.headers}
        same = held in ({"If-None-Match": tag}, {"If-Modified-Since": self.changed})
        status = mine.status if mine.status != 200 else 304 if same else 200
        mine.asked.append((held, status))
        self.send_response_only(status)
        self.send_header("Date", self.now)
        validators = {"etag": ("ETag", tag), "date": ("Last-Modified", self.changed)}
        if kind in validators:
            self.send_header(*validators[kind])
        if status == 200:
            self.send_header("Content-Length", str(len(self.text)))
        self.end_headers()
        if status == 200:
            self.wfile.write(self.text)

    def log_message(self, *args):
        pass


@pytest.fixture
def changing(tmp_path, monkeypatch):
    begin = {"text": b"first", "status": 200, "asked": [], "changed": Changing.changed, "now": Changing.now}
    for name, value in begin.items():
        monkeypatch.setattr(Changing, name, value)
    monkeypatch.delenv("LLMCORE_OFFLINE", raising=False)
    with serving(Changing, monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.mark.parametrize(
    ("kind", "asks"), [("etag", "If-None-Match"), ("date", "If-Modified-Since"), ("nothing", None)]
)
def test_a_text_that_has_changed_at_its_address_is_read_anew(changing, kind, asks):
    """And one that has not is brought once, as far as the server tells."""
    url = f"{changing.address}/{kind}/a.txt"
    assert corpus.read_text(url) == corpus.read_text(url) == "first"
    assert [status for _, status in Changing.asked] == [200, 304 if asks else 200]
    assert [list(held) for held, _ in Changing.asked] == [[], [asks] if asks else []]
    Changing.text = b"second"
    Changing.changed, Changing.now = "Mon, 01 Jan 2024 00:01:00 GMT", "Mon, 01 Jan 2024 00:01:09 GMT"
    assert corpus.read_text(url) == corpus.read_text(url) == "second"
    assert [status for _, status in Changing.asked][2:] == [200, 304 if asks else 200]


def test_a_date_that_is_as_young_as_the_answer_is_not_trusted(changing):
    """Dates count seconds: a text that is changed twice within one would stay the first."""
    Changing.now = Changing.changed
    url = f"{changing.address}/date/a.txt"
    assert corpus.read_text(url) == "first"
    Changing.text = b"second"
    assert corpus.read_text(url) == "second"


def test_a_copy_that_was_damaged_or_replaced_is_brought_again(changing):
    url = f"{changing.address}/etag/a.txt"
    corpus.open_text(url).write_text("damaged")
    assert corpus.read_text(url) == "first"
    [origin] = [p for p in corpus.cache_dir().iterdir() if p.name.startswith(".origin-")]
    for content in ("", "[]", '{"tag": 3, "sha256": 3}', "[" * 9999):
        origin.write_text(content)
        assert corpus.read_text(url) == "first"


@pytest.mark.parametrize("how", ["server gone", "offline", "status 404", "status 500"])
def test_where_a_text_cannot_be_checked_the_kept_one_is_used_with_a_word(changing, monkeypatch, how):
    url = f"{changing.address}/etag/a.txt"
    assert corpus.read_text(url) == "first"
    if how == "server gone":
        changing.shutdown()
        changing.server_close()
    elif how == "offline":
        monkeypatch.setenv("LLMCORE_OFFLINE", "1")
    else:
        monkeypatch.setattr(Changing, "status", int(how.split()[1]))
    said = rf"{url} .*Whether it has changed is not known: .*a.txt, brought before, is used"
    with pytest.warns(UserWarning, match=said):
        assert corpus.read_text(url) == "first"
    other = url.replace("a.txt", "b.txt")
    with pytest.raises(ConnectionError, match=other):
        corpus.read_text(other)


def test_an_edited_file_is_read_as_it_is(tmp_path, monkeypatch):
    """By path and by address: there is no copy that could grow old."""
    monkeypatch.setenv("LLMCORE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a text?.txt"
    for text in ("first", "second", "tsrif"):
        path.write_text(text)
        os.utime(path, (0, 0))
        assert corpus.read_text(path) == corpus.read_text(path.as_uri()) == text
    assert corpus.open_text(path.as_uri()) == path
    assert not (tmp_path / "cache").exists()
    said = "file:///nowhere/a is no file of this machine: give the path of one"
    with pytest.raises(FileNotFoundError, match=said):
        corpus.read_text("file:///nowhere/a")
    with pytest.raises(FileNotFoundError, match="is no file of this machine"):
        corpus.read_text(f"file://elsewhere{path.as_posix()}")
    with pytest.raises(ValueError, match="does not have the size or the SHA-256 expected"):
        corpus.download(path.as_uri(), "0" * 64)


# ------------------------------------------------------------------------------------------- byte order marks


def every_reader(path, url):
    """Each way in which a text comes in."""
    tokenizer = str(path.with_name("t.json"))
    command = [sys.executable, "-m", "llmcore", "tokenize", "--tokenizer", tokenizer, "--text", "-"]
    env = os.environ | {"PYTHONIOENCODING": "utf-8"}

    def shown() -> str:
        done = subprocess.run(command, input=path.read_bytes(), capture_output=True, env=env)
        if done.returncode:
            raise ValueError(done.stderr.decode())
        return "".join(ast.literal_eval(line.split("\t")[1]) for line in done.stdout.decode().splitlines())

    def learned() -> str:
        chunks = count_file(path, r"[\s\S]+")
        return b"".join(chunks).decode()

    yield from (
        lambda: corpus.read_text(path),
        lambda: corpus.read_text(path.as_uri()),
        lambda: corpus.read_text(url),
        learned,
    )
    yield from (lambda size=size: "".join(read_pieces(path, size)) for size in (1, 2, 3, 4, 7, 1 << 20))
    yield shown


TEXT = "The low \ufeffwell\n"  # in the middle it is no mark
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_byte_order_mark_is_dropped_and_other_encodings_are_named(changing, tmp_path, encoding):
    CharTokenizer.train([TEXT]).save(tmp_path / "t.json")
    path, other = tmp_path / "a.txt", encoding[:6].upper()
    path.write_bytes((("" if encoding.startswith("utf-8") else "\ufeff") + TEXT).encode(encoding))
    Changing.text = path.read_bytes()
    for read in every_reader(path, f"{changing.address}/etag/a.txt"):
        if encoding.startswith("utf-8"):
            assert read() == TEXT
        else:
            said = f"is {other} by its byte order mark, not UTF-8; convert the file first"
            with pytest.raises(ValueError, match=said):
                read()


def test_only_the_first_mark_is_one(tmp_path):
    for content, text in (
        (b"\xef\xbb\xbf" * 2 + b"a", "\ufeffa"),
        (b"a\xef\xbb\xbf", "a\ufeff"),
        (b"\xef\xbb\xbf", ""),
    ):
        (tmp_path / "a").write_bytes(content)
        assert ["".join(read_pieces(tmp_path / "a", size)) for size in (1, 2, 9)] == [text] * 3
    for content, at in ((b"\xef\xbb\xbfab\xff", 5), (b"\xef\xbb\xbf\xff", 3), (b"ab\xff", 2)):
        (tmp_path / "a").write_bytes(content)
        for read in (lambda: corpus.read_text(tmp_path / "a"), lambda: list(read_pieces(tmp_path / "a", 1))):
            with pytest.raises(ValueError, match=f"a, byte {at}: not UTF-8"):
                read()
    (tmp_path / "a").write_bytes(b"\xef\xbb")
    with pytest.raises(ValueError, match="ends in the middle of a character"):
        list(read_pieces(tmp_path / "a"))
