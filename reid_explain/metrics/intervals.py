"""TODO(house): drop. Moved to ``reid_explain.statistics``."""

from reid_explain.statistics import Interval as Interval
from reid_explain.statistics import bootstrap_mean as bootstrap_mean
