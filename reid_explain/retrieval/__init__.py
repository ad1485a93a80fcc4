"""Retrieval under the camera rule of Market-1501 (Zheng et al., ICCV 2015).

A match is a gallery image of the query's identity from another camera. Images of its identity
from its own camera are junk, as are all whose role is junk: they are left out. A distractor
matches no query, and counts.
"""

from reid_explain.retrieval.embedded import Embedded as Embedded
from reid_explain.retrieval.embedded import embed_records as embed_records
from reid_explain.retrieval.embedded import relevance as relevance
from reid_explain.retrieval.gallery import Gallery as Gallery
from reid_explain.retrieval.gallery import RetrievalScores as RetrievalScores
from reid_explain.retrieval.gallery import ranks_by_distance as ranks_by_distance
from reid_explain.retrieval.scores import RetrievalSummary as RetrievalSummary
from reid_explain.retrieval.scores import average_precision as average_precision
from reid_explain.retrieval.scores import cumulative_matches as cumulative_matches
from reid_explain.retrieval.scores import summarize as summarize
