"""Eight attributes of a person, by person-attributes-recognition-crossroad-0230 of Open Model Zoo.

The network (.xml and .bin, Apache-2.0) is looked for in the current folder.
"""

import openvino
import torch

from reid_explain.inputs import BGR_255


class Crossroad:
    attributes = (
        *("is_male", "has_bag", "has_backpack", "has_hat"),
        *("has_longsleeves", "has_longpants", "has_longhair", "has_coat_jacket"),
    )
    input_spec = BGR_255.replace(size=(160, 80))

    def __init__(self, path="person-attributes-recognition-crossroad-0230.xml"):
        network = openvino.Core().read_model(path)
        network.reshape([-1, 3, 160, 80])  # batches of any size
        self.network = openvino.compile_model(network, "CPU")

    def __call__(self, images):
        return torch.from_numpy(self.network(images.numpy())[0]).flatten(1)
