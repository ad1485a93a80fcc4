"""TODO(house): drop. Moved to ``similarity``, ``randomization`` and ``faithfulness``."""

from reid_explain.metrics import randomization
from reid_explain.metrics.faithfulness import weight_entropy as weight_entropy
from reid_explain.metrics.similarity import hog_similarity as hog_similarity
from reid_explain.metrics.similarity import spearman as spearman
from reid_explain.metrics.similarity import ssim as ssim

executed_layers = randomization.executed_layers
cascading_randomisation = cascading_randomization = randomization.cascading_randomization
independent_randomisation = independent_randomization = randomization.independent_randomization
