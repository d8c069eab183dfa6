"""The head that two published rewards put on an embedding: five linear layers, one after the other."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (1024, 128, 64, 16, 1)
NUMBERS = (0, 2, 4, 6, 7)  # of the layers in the published files, where dropout counted too


class Head(nn.Module):
    """(B, width) -> (B,); tensors are called ``layers.0.weight`` and so on, as in the published files. No activation
    stands between the layers, and dropout, which serves training only, is left out."""

    def __init__(self, width: int):
        super().__init__()
        sizes = zip((width, *WIDTHS), WIDTHS, strict=False)
        layers = {str(number): nn.Linear(*size) for number, size in zip(NUMBERS, sizes, strict=True)}
        self.layers = nn.ModuleDict(layers)

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.layers.values():
            features = layer(features)
        return features[:, 0]
