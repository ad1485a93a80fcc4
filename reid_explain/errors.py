"""The one error that bad input raises, and what to say where a package is missing."""


class InputError(ValueError):
    """An argument, file or folder is not what it has to be.

    The message names the argument, what came and what was expected:
    ``inputs: got shape (3, 256, 128), expected (B, 3, H, W)``.
    """

    def __init__(self, argument: str, got: object, expected: str) -> None:
        super().__init__(argument, got, expected)
        self.argument = argument

    def __str__(self) -> str:
        argument, got, expected = self.args
        return f"{argument}: got {got}, expected {expected}"


EXTRAS = {
    "timm": "models",
    "onnxruntime": "models",
    "onnx": "models",
    "transformers": "huggingface",
    "openvino": "openvino",
    "gradio": "app",
    "pytorch_metric_learning": "train",
    "accelerate": "train",
    "lightly": "ssl",
}
"""Packages by the extra that brings them."""


def not_installed(package: str | None) -> str:
    """Return one line on a package that is missing: what to install."""
    extra = EXTRAS.get(str(package).partition(".")[0])
    wanted = f'"reid-explain[{extra}]"' if extra else package
    return f"{package} is not installed; pip install {wanted}"
