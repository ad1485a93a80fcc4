"""CUHK03 under the 767/700 protocol, as CUHK03-NP lies on disk.

Li et al., "DeepReID: deep filter pairing neural network for person re-identification", CVPR 2014;
protocol: Zhong et al., "Re-ranking person re-identification with k-reciprocal encoding", CVPR 2017.
"""

from pathlib import Path

from reid_explain.checks import check_choice
from reid_explain.datasets.files import ThreeFolderDataset

BOXES = ("labeled", "detected")


class CUHK03(ThreeFolderDataset):
    """CUHK03-NP: 767 training and 700 test identities, two cameras each.

    No junk, no distractors and no attribute file: ``attribute_names`` and ``labels`` are empty.
    ``name`` is ``cuhk03`` with labeled boxes and ``cuhk03_detected`` with detected ones, since
    figures of the two do not compare.

    Args:
        root: the folder with ``labeled`` and ``detected``, each with ``bounding_box_train``,
            ``query`` and ``bounding_box_test``; only the one of ``boxes`` is read.
        boxes: ``"labeled"`` by hand or ``"detected"`` by a detector.

    Raises:
        InputError: other boxes; see also ``ThreeFolderDataset``.
    """

    name = "cuhk03"
    name_pattern = r"(\d+)_c(\d+)_\d+\.png"
    name_example = "0001_c1_1.png"

    def __init__(self, root: str | Path, boxes: str = "labeled") -> None:
        check_choice("boxes", boxes, BOXES)
        super().__init__(Path(root) / boxes)
        self.boxes = boxes
        if boxes == "detected":
            self.name = "cuhk03_detected"
