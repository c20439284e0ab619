"""Pictures: markup that is whole and safe, the same on every machine, and one machine for every chapter."""

import xml.etree.ElementTree as ET

import pytest

from book.places import in_order
from book.sphinx.pages import LIT
from llmcore.widgets.picture import PARTS, Picture, machine


def drawn(picture):
    return ET.fromstring(picture.html)


def test_a_picture_is_well_formed_and_says_in_words_what_it_shows():
    picture = (
        Picture(40, "two numbers").cells(0, 0, [0.5, -1.25]).arrow((0, 0), (10, 0)).box(0, 20, 30, 10, "a")
    )
    svg = drawn(picture).find("svg")
    assert svg.get("viewBox") == "0 0 360 40"
    assert svg.get("role") == "img"
    assert svg.find("title").text == "two numbers"
    assert [text.text for text in svg.iter("text")] == ["0.50", "-1.25", "a"]


def test_words_are_text_and_never_markup():
    hostile = '</svg><script>alert(1)</script><img src=x onerror="alert(1)">'
    picture = Picture(20, hostile).text(0, 10, hostile).box(0, 0, 10, 10, hostile).cells(0, 0, [1.0])
    root = drawn(picture)
    assert {node.tag for node in root.iter()} == {"div", "svg", "title", "text", "rect"}
    assert next(root.iter("text")).text == hostile


@pytest.mark.parametrize("value", [1e-9, -1e-9, 2.04, 2.0])
def test_a_place_has_at_most_one_decimal(value):
    """So a number that differs in its last bits between machines is drawn at the same place."""
    x = drawn(Picture(10, "a").text(value, 0, "a")).find("svg").find("text").get("x")
    assert x == {1e-9: "0", -1e-9: "0", 2.04: "2", 2.0: "2"}[value]


def test_a_number_is_shaded_by_its_sign_and_size():
    rects = list(drawn(Picture(20, "a").cells(0, 0, [2.0, -1.0, 0.0], most=2)).iter("rect"))
    assert [r.get("fill-opacity") for r in rects] == ["0.6", "0.3", "0"]
    assert rects[0].get("fill") != rects[1].get("fill")


def test_an_empty_description_is_refused():
    with pytest.raises(ValueError, match="alt is empty"):
        Picture(10, " ")


@pytest.mark.parametrize("part", PARTS)
def test_the_machine_lights_the_part_that_is_named(part):
    plain, lit = (list(drawn(machine(*names)).iter("text")) for names in ([], [part]))
    assert [t.text for t in plain] == [t.text for t in lit]
    assert {t.text for t in lit} == set(PARTS)
    assert [t.text for t in lit if t.get("font-weight")] == [part]
    assert not any(t.get("font-weight") for t in plain)


def test_the_machine_has_no_other_part():
    with pytest.raises(ValueError, match="flux: no such part"):
        machine("flux")


def test_every_chapter_opens_with_the_machine():
    chapters = {path.stem for path in in_order()} - {"0-0-one-pass", "appendix-notation"}
    assert set(LIT) == chapters
    for parts in LIT.values():
        assert parts
        assert set(parts) <= set(PARTS)
