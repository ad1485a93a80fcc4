"""Re-identification networks with the seam ``features`` / ``embed``, and their weights."""

from reid_explain.models.build import MODELS as MODELS
from reid_explain.models.build import build_model as build_model
from reid_explain.models.checkpoints import load_checkpoint as load_checkpoint
from reid_explain.models.checkpoints import open_checkpoint as open_checkpoint
from reid_explain.models.functions import FunctionNet as FunctionNet
from reid_explain.models.graphs import GraphNet as GraphNet
from reid_explain.models.huggingface import HuggingFaceNet as HuggingFaceNet
from reid_explain.models.mgn import MGN as MGN
from reid_explain.models.mobilenetv2 import MobileNetV2 as MobileNetV2
from reid_explain.models.network import EmbeddingNet as EmbeddingNet
from reid_explain.models.onnx_models import CutOnnxNet as CutOnnxNet
from reid_explain.models.onnx_models import OnnxNet as OnnxNet
from reid_explain.models.onnx_models import onnx_layers as onnx_layers
from reid_explain.models.openvino_graphs import read_openvino as read_openvino
from reid_explain.models.openvino_models import OpenVinoNet as OpenVinoNet
from reid_explain.models.osnet import OSNet as OSNet
from reid_explain.models.osnet import osnet_x0_5 as osnet_x0_5
from reid_explain.models.osnet import osnet_x0_25 as osnet_x0_25
from reid_explain.models.osnet import osnet_x0_75 as osnet_x0_75
from reid_explain.models.osnet import osnet_x1_0 as osnet_x1_0
from reid_explain.models.pcb import PCB as PCB
from reid_explain.models.pretrained import load_pretrained as load_pretrained
from reid_explain.models.pretrained import load_trained as load_trained
from reid_explain.models.pretrained import save_trained as save_trained
from reid_explain.models.reid import ReIDNet as ReIDNet
from reid_explain.models.timm_models import TimmNet as TimmNet
