"""The one error that bad input raises."""


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
