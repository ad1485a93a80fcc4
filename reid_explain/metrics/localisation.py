"""TODO(house): drop. Moved to ``localization``."""

from reid_explain.metrics.localization import area as area
from reid_explain.metrics.localization import energy_inside as energy_inside
from reid_explain.metrics.localization import pointing_game as pointing_game
