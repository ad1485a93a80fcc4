"""A figure: body, clothes and belongings, painted from back to front."""

from reid_explain.datasets.synthetic.belongings import belongings
from reid_explain.datasets.synthetic.body import body
from reid_explain.datasets.synthetic.canvas import Canvas, Part, Shape
from reid_explain.datasets.synthetic.garments import garments
from reid_explain.datasets.synthetic.person import Person


def figure(person: Person) -> list[Shape]:
    """Return the pieces of a person from back to front."""
    shapes = [*body(person), *garments(person), *belongings(person)]
    return sorted(shapes, key=lambda shape: shape.order)


def paint(canvas: Canvas, person: Person, sun: float, part: Part | None = None) -> None:
    """Paint a person; see ``Canvas.shape`` for ``sun`` and ``part``."""
    for shape in figure(person):
        canvas.shape(shape, sun, part)
