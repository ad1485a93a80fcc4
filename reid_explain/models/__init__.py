"""Re-identification networks with the seam ``features`` / ``embed``, and their weights."""

from reid_explain.models.build import MODELS, build_model
from reid_explain.models.checkpoints import load_checkpoint, open_checkpoint
from reid_explain.models.functions import FunctionNet
from reid_explain.models.mgn import MGN
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.onnx_models import OnnxNet, onnx_layers
from reid_explain.models.osnet import OSNet, osnet_x0_5, osnet_x0_25, osnet_x0_75, osnet_x1_0
from reid_explain.models.pcb import PCB
from reid_explain.models.pretrained import load_pretrained, load_trained, save_trained
from reid_explain.models.reid import ReIDNet
from reid_explain.models.timm_models import TimmNet

__all__ = [
    "MGN",
    "MODELS",
    "PCB",
    "EmbeddingNet",
    "FunctionNet",
    "OSNet",
    "OnnxNet",
    "ReIDNet",
    "TimmNet",
    "build_model",
    "load_checkpoint",
    "load_pretrained",
    "load_trained",
    "onnx_layers",
    "open_checkpoint",
    "osnet_x0_5",
    "osnet_x0_25",
    "osnet_x0_75",
    "osnet_x1_0",
    "save_trained",
]
