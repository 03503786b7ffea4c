"""How parts are written: names, and calls with literal arguments."""

from dataclasses import dataclass

import pytest

from flax_vae.parts import Parts, read_call
from flax_vae.runs.config import PARTS
from flax_vae.system.errors import UserError

EVERY_PART = [(parts, name) for parts in PARTS.values() for name in parts]


@dataclass(frozen=True)
class Box:
    """A box. More about it."""

    count: int
    width: float = 1.0
    sides: tuple[int, ...] = (2, 3)


@pytest.fixture
def boxes() -> Parts:
    parts = Parts("box", supplied=("count",))
    parts.register("box", colour="red")(Box)
    return parts


def test_a_part_is_made_of_what_is_typed_and_what_is_supplied(boxes: Parts) -> None:
    assert boxes.make("box", count=7, other=8) == Box(7)
    assert boxes.make(" box ( 2 , sides=(4,) ) ", count=7) == Box(7, 2.0, (4,))
    assert str(boxes.read("box(2, sides=(4,))")) == "box(width=2.0, sides=(4,))"
    assert boxes.signature("box") == "box(width=1.0, sides=(2, 3))"
    assert boxes.help() == "- box(width=1.0, sides=(2, 3)): A box. More about it."
    assert boxes.facts["box"] == {"colour": "red"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bux", "choose from box. Did you mean box?"),
        ("box(count=3)", "unexpected keyword argument 'count'; the signature is box(width=1.0, sides=(2, 3))"),
        ("box(1, 2, 3)", "too many positional arguments"),
        ("box(width='a')", "width is 'a', which is not float"),
        ("box(sides=(1, 2.5))", "sides is (1, 2.5), which is not a tuple of int"),
        ("box(sides=(0,))", "sides must be at least 1"),
        ("box(width=open('x'))", "literal arguments"),
        ("box(**{})", "literal arguments"),
        ("box(width=1", "literal arguments"),
        ("box(1)(2)", "literal arguments"),
        ("box; import os", "literal arguments"),
        ("", "literal arguments"),
    ],
)
def test_what_cannot_be_read_is_one_line(boxes: Parts, text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        boxes.make(text, count=1)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_nothing_is_evaluated() -> None:
    for text in ("f(__import__('os').system('exit'))", "f(x=[y for y in ()])", "f(lambda: 0)"):
        with pytest.raises(UserError, match="literal arguments"):
            read_call(text)


@pytest.mark.parametrize(("parts", "name"), EVERY_PART, ids=[f"{parts.kind}-{name}" for parts, name in EVERY_PART])
def test_every_part_says_what_it_is_and_may_be_written_out_in_full(parts: Parts, name: str) -> None:
    """Its signature is a call that reads back, with the values that it has without."""
    assert parts.meaning(name).endswith((".", ")"))
    full = parts.read(parts.signature(name))
    assert dict(full.kwargs) == {key: p.default for key, p in parts.hyperparameters(name).items()}
    assert str(parts.read(str(full))) == str(full)
