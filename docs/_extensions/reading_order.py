"""The gallery in the order in which one would read it."""

ORDER = (
    "tutorial",
    "explain_embedding",
    "explain_match",
    "place_to_place",
    "photographs",
    "rank_list",
    "explain_difference",
    "counterfactual",
    "attribute_maps",
    "masks_against_maps",
    "extremal",
    "area_against_drop",
    "sanity_check",
    "noise_tunnel",
    "vision_transformer",
    "ssl_training",
    "synthetic_world",
    "own_explainer",
    "own_metric",
)


class ReadingOrder:
    """Sorts file names by ``ORDER``; an example that it does not have is an error.

    Args:
        folder: of the examples.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, name: str) -> int:
        """Return the place of ``plot_NAME.py``."""
        return ORDER.index(name.removeprefix("plot_").removesuffix(".py"))

    def __repr__(self) -> str:
        return type(self).__name__
