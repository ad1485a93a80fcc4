"""Retrieval under the camera rule of Market-1501 (Zheng et al., ICCV 2015).

A match is a gallery image of the query's identity from another camera. Images of its identity
from its own camera are junk, as are all whose role is junk: they are left out. A distractor
matches no query, and counts.
"""

from reid_explain.retrieval.embedded import Embedded, embed_records, relevance
from reid_explain.retrieval.gallery import Gallery, RetrievalScores, ranks_by_distance
from reid_explain.retrieval.scores import (
    RetrievalSummary,
    average_precision,
    cumulative_matches,
    summarize,
)

__all__ = [
    "Embedded",
    "Gallery",
    "RetrievalScores",
    "RetrievalSummary",
    "average_precision",
    "cumulative_matches",
    "embed_records",
    "ranks_by_distance",
    "relevance",
    "summarize",
]
