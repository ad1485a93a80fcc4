"""TODO(house): drop. Moved to ``reid_explain.retrieval``."""

from torch import Tensor

from reid_explain.retrieval import Embedded, Gallery
from reid_explain.retrieval import RetrievalSummary as RetrievalSummary
from reid_explain.retrieval import average_precision as average_precision
from reid_explain.retrieval import cumulative_matches as cumulative_matches
from reid_explain.retrieval import ranks_by_distance as ranks_by_distance
from reid_explain.retrieval import summarize as summarize


def match_ranks(
    query: Embedded,
    gallery: Embedded,
    *,
    metric: str = "cosine",
    query_block: int = 256,
    gallery_block: int = 8192,
) -> list[Tensor]:
    """Return ``Gallery(gallery).ranks(query)``."""
    return Gallery(gallery, metric=metric, block=gallery_block).ranks(query)
