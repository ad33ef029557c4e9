"""What reaches the detector: the beam that is left behind the patient."""

import torch
from jaxtyping import Float
from torch import Tensor


def transmit(line_integral: Float[Tensor, "*batch v u"]) -> Float[Tensor, "*batch v u"]:
    """Turn line integrals into the fraction of the beam that reaches the detector.

    The beam has one energy, so each ray obeys Beer-Lambert, ``T = exp(-p)``.

    Args:
        line_integral: ``p``, the integral of mu along each ray [dimensionless].

    Returns:
        Transmission ``T``: 1 where the beam met air, near 0 behind thick bone.

    Source:
        Bushberg et al., The Essential Physics of Medical Imaging, 3rd ed., ch. 3.

    Example:
        50 mm of water at mu = 0.02/mm makes p = 1:

        >>> transmit(torch.tensor([[50 * 0.02]]))
        tensor([[0.3679]])
    """
    return torch.exp(-line_integral)
