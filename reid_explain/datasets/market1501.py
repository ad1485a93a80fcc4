"""Market-1501 as it lies on disk.

Zheng et al., "Scalable person re-identification: a benchmark", ICCV 2015.
"""

from reid_explain.datasets.files import ThreeFolderDataset

MARKET_ATTRIBUTES = (
    *("backpack", "bag", "clothes", "down"),
    *("downblack", "downblue", "downbrown", "downgray", "downgreen"),
    *("downpink", "downpurple", "downwhite", "downyellow"),
    *("gender", "hair", "handbag", "hat", "up"),
    *("upblack", "upblue", "upgray", "upgreen", "uppurple", "upred", "upwhite", "upyellow"),
)


class Market1501(ThreeFolderDataset):
    """Market-1501: 1,501 identities, six cameras, detector boxes of 128x64.

    Identity -1 is junk (boxes of body parts), identity 0 a distractor; both are in ``gallery``.
    ``labels[identity]`` holds the 26 attributes of ``attribute_names`` (1 or 2, see
    ``IdentityAttributes``) where ``attribute/market_attribute.mat`` is present; otherwise both
    are empty.

    Args:
        root: the folder with ``bounding_box_train``, ``query`` and ``bounding_box_test``.

    Raises:
        InputError: see ``ThreeFolderDataset``.
    """

    name = "market1501"
    name_pattern = r"(-1|\d+)_c(\d+)s\d+_\d+_\d+\.jpg"
    name_example = "0002_c1s1_000451_03.jpg"
    attribute_file = "market_attribute.mat"
    attributes_in_file = MARKET_ATTRIBUTES
