"""A plain MobileNetV2, with the names of modules that its published ImageNet weights have.

Source: Sandler et al. 2018, MobileNetV2, table 2.
"""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

WIDTH = 1280
# expansion, channels, repeats, first stride
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
           (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip


def _conv(given: int, made: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(given, made, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(made),
        nn.ReLU6(inplace=True),
    )


class Inverted(nn.Module):
    """Widen, look around channel by channel, narrow; added to its input where sizes agree."""

    def __init__(self, given: int, made: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = given * expansion
        widen = [] if expansion == 1 else [_conv(given, wide, 1)]
        self.is_added = stride == 1 and given == made
        self.conv = nn.Sequential(
            *widen,
            _conv(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, made, 1, bias=False),
            nn.BatchNorm2d(made),
        )

    def forward(self, x: Float[Tensor, "b c v u"]) -> Float[Tensor, "b k p q"]:
        """Transform."""
        made: Tensor = self.conv(x)
        return x + made if self.is_added else made


class MobileNetV2(nn.Module):
    """The layers below the classifier."""

    def __init__(self) -> None:
        super().__init__()
        steps = [(t, c, s if i == 0 else 1) for t, c, n, s in _STAGES for i in range(n)]
        widths = [32, *(c for _, c, _ in steps)]
        blocks = [
            Inverted(given, made, stride, expansion)
            for (given, made), (expansion, _, stride) in zip(pairwise(widths), steps, strict=True)
        ]
        self.features = nn.Sequential(_conv(3, 32, 3, 2), *blocks, _conv(320, WIDTH, 1))

    def forward(self, x: Float[Tensor, "b 3 v u"]) -> Float[Tensor, "b k"]:
        """Make one vector of a picture: the mean over its places."""
        made: Tensor = self.features(x)
        return made.mean(dim=(2, 3))
