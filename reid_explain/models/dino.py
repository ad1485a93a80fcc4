"""Files of runs of DINO (Caron et al., ICCV 2021): the teacher's backbone, without a neck.

TransReID-SSL and SOLIDER pretrain so, on images with ImageNet's mean and deviation.
"""

from reid_explain.inputs import InputSpec
from reid_explain.models.layouts import LAYOUTS, Layout

SWIN = r"stages\.0\.blocks\.0\.attn\.w_msa\."
LAYOUTS.register(
    Layout(
        # What TransReID-SSL converts has no "backbone."; a plain transformer could be anybody's.
        rf"^backbone\.(cls_token$|{SWIN})|^patch_embed\.conv\.0\.|^{SWIN}",
        renames=((r"^(backbone\.)?", "base."),),
        extras=(
            *(r"^head\.", r"^(backbone\.)?fc\.", r"relative_position_index$"),
            r"^(backbone\.)?(norm[012]|semantic_embed_[wb]\.3)\.",
        ),
        inputs=((r"", InputSpec()),),
    ),
    name="dino",
)
