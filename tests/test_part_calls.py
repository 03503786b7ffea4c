"""Parts as users write them: names, and calls with literal arguments."""

import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import pytest

from flax_vae.calls import describe, parse
from flax_vae.evaluation.figures import METRICS
from flax_vae.evaluation.samples import MODES
from flax_vae.export.formats import FORMATS
from flax_vae.literals import LayerCount
from flax_vae.objectives.schedules import WEIGHTS
from flax_vae.parts import Parts
from flax_vae.runs.config import PARTS
from flax_vae.samplers import SAMPLERS
from flax_vae.system.errors import UserError

COMPUTED = (METRICS, MODES)  # to make one of these is to compute it
REGISTRIES = (*PARTS.values(), WEIGHTS, SAMPLERS, FORMATS, *COMPUTED)
REQUIRED = {
    **{"warmup": "(2.0)", "cyclical": "(1.0, cycles=2)"},
    **{"every": "(adam(), steps=2)", "split": "(adam(), encoder=frozen())"},
}  # of parts with arguments that have no default
EVERY_PART = [(parts, name) for parts in REGISTRIES for name in parts]
every_part = pytest.mark.parametrize(
    ("parts", "name"), EVERY_PART, ids=[f"{parts.kind}-{name}" for parts, name in EVERY_PART]
)
SUPPLIED: dict[str, Any] = {
    **{"image_shape": (7, 7, 1), "latent_dim": 3, "images": np.zeros((200, 7, 7, 1), np.uint8), "conditional": False},
    **dict.fromkeys(("posterior", "prior", "likelihood", "mean", "context")),
    **{
        "num_images": 100,
        "total_steps": 20,
        "steps_per_epoch": 5,
        "temperature": 1.0,
        "learning_rate": 0.1,
        "peak": 0.1,
        "steps": 10,
    },
}


@dataclass(frozen=True)
class Box:
    """A box. Its sides."""

    count: int
    width: float = 1.0
    sides: tuple[int, ...] = (2, 3)


@pytest.fixture
def boxes() -> Parts:
    parts = Parts("box", supplied=("count",))
    parts.register("box", colour="red")(Box)
    return parts


def test_a_part_is_made_from_typed_and_supplied_arguments(boxes: Parts) -> None:
    assert boxes.make("box", count=7, other=8) == Box(7)
    assert boxes.make(" box ( 2 , sides=(4,) ) ", count=7) == Box(7, 2.0, (4,))
    assert str(boxes.read("box(2, sides=(4,))")) == "box(width=2.0, sides=(4,))"
    assert boxes.signature("box") == "box(width=1.0, sides=(2, 3))"
    assert boxes.help() == "- box(width=1.0, sides=(2, 3)): A box. Its sides."
    assert boxes.facts["box"] == {"colour": "red"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bux", "choose from box, or write my_module:my_box. Did you mean box?"),
        ("box(count=3)", "unexpected keyword argument 'count'; the signature is box(width=1.0, sides=(2, 3))"),
        ("box(1, 2, 3)", "too many positional arguments"),
        ("box(width='a')", "width is 'a', which is not float"),
        ("box(sides=(1, 2.5))", "sides is (1, 2.5), which is not a tuple of int"),
        ("box(sides=(0,))", "sides must be at least 1"),
        ("box(width=open('x'))", "width is open('x'), which is not a literal"),
        ("box(**{})", "literal arguments"),
        ("box(width=1", "literal arguments"),
        ("box(1)(2)", "literal arguments"),
        ("box; import os", "literal arguments"),
        ("", "literal arguments"),
    ],
)
def test_text_that_is_not_a_part_is_refused_in_one_line(boxes: Parts, text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        boxes.make(text, count=1)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_parts_are_arguments_of_parts(boxes: Parts) -> None:
    """Nested parts get the supplied arguments as well, and text is parsed only once."""
    shelves = Parts("shelf", supplied=("height",))

    def shelf(
        height: float, first: Annotated[Box | None, boxes] = None, **others: Annotated[Box, boxes]
    ) -> tuple[float, Box | None, dict[str, Box]]:
        """A shelf."""
        return height, first, others

    shelves.register("shelf")(shelf)
    text = "shelf(box(2), left=box(sides=(4,)), right=box())"
    call = shelves.read(text)
    assert str(call) == "shelf(first=box(width=2.0), left=box(sides=(4,)), right=box())"
    assert shelves.read(str(call)) == call
    expected = 3.0, Box(7, 2.0), {"left": Box(7, sides=(4,)), "right": Box(7)}
    assert shelves.make(call, height=3.0, count=7) == shelves.make(text, height=3.0, count=7) == expected
    assert parse(text) is parse(text)
    for wrong, message in {
        "shelf(shelf())": r"`shelf` shelf\(shelf\(\)\): first is shelf\(\), which is not one of box",
        "shelf(left=box(depth=1))": "`box` box.*unexpected keyword argument 'depth'",
        "shelf(left=1)": "left is 1, which is not one of box",
        "shelf(left=1, left=2)": "literal arguments",
    }.items():
        with pytest.raises(UserError, match=message):
            shelves.make(wrong, height=3.0, count=7)


def test_nothing_is_evaluated() -> None:
    for text in ("f(__import__('os').system('exit'))", "f(x=[y for y in ()])", "f(lambda: 0)"):
        with pytest.raises(UserError, match="literal arguments"):
            parse(text)


@every_part
def test_every_part_has_a_meaning_and_a_signature_that_reads_back(parts: Parts, name: str) -> None:
    """The signature is a call; read, it has the default values."""
    assert parts.meaning(name).endswith((".", ")"))
    if name in REQUIRED:
        full = parts.read(name + REQUIRED[name])
    else:
        full = parts.read(parts.signature(name))
        parameters = parts.hyperparameters(name).items()
        assert dict(full.kwargs) == {key: p.default for key, p in parameters if key not in parts.unless_written}
    assert str(parts.read(str(full))) == str(full)


@every_part
def test_a_part_of_the_users_own_is_made_like_a_registered_one(
    parts: Parts, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is made from text with its required arguments only, and with all of them."""
    monkeypatch.setitem(sys.modules, "mirror", SimpleNamespace(**parts))
    written = name + REQUIRED.get(name, "")
    full = written if name in REQUIRED else parts.signature(name)
    registered, own = parts.load(written), [parts.load(f"mirror:{text}") for text in (written, full)]
    if parts not in COMPUTED:
        expected = registered(**SUPPLIED)
        for made in (make(**SUPPLIED) for make in own):
            assert type(made) is type(expected)
            assert describe(made) == describe(expected)
    assert parts.needs(parse(f"mirror:{name}")) == getattr(parts[name], "needs", ())
    with pytest.raises(UserError, match=r"; the signature is|it is called as|which is not one of"):
        parts.load(f"mirror:{name}(unknown_argument=1)")


def test_arguments_have_the_bounds_of_their_annotations() -> None:
    def tower(layers: LayerCount = 1, depths: tuple[LayerCount, ...] = (1,), width: int = 1) -> None:
        """A tower."""

    towers = Parts("tower")
    towers.register("tower")(tower)
    assert dict(towers.read("tower(layers=100, depths=(100, 1), width=101)").kwargs)["width"] == 101
    for text in ("tower(layers=101)", "tower(depths=(1, 101))"):
        with pytest.raises(UserError, match="must be at least 1 and at most 100"):
            towers.read(text)


def test_requirements_come_from_the_class_or_the_registration() -> None:
    boxes = Parts("box")
    boxes.register("box")(Box)
    boxes.register("tight")(type("Tight", (Box,), {"needs": ("lid",)}))
    boxes.register("deep", needs=("floor",))(lambda: Box(1))
    assert [boxes.needs(name) for name in ("box", "tight", "deep")] == [(), ("lid",), ("floor",)]
