"""Recover from a radiograph where source and detector stood, by following the gradient.

The reference engine is differentiable in the pose, and so are ``make_pose`` and everything between.
Here the radiograph is one of the torso phantom, taken off the upright PA position by a turn and a
shift that the search does not know. Run it with ``python examples/recover_pose.py``.
"""

import torch
from torch import Tensor

from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import make_pose
from drrgen.phantoms import make_torso
from drrgen.renderer.render import render

VOLUME = make_torso(spacing_mm=12.0)
PANEL = Detector(sid_mm=1800, pitch_mm=16.0, rows=16, columns=26)
# A millimetre along the beam (y in PA) hardly changes the picture: it is magnified a little
# otherwise. Longer steps that way make the search as steep in all directions.
SHIFT_UNITS = torch.tensor([1.0, 10.0, 1.0], dtype=torch.float64)


def take_picture(rotation_deg: Tensor, shift_mm: Tensor) -> Tensor:
    """Integrate the phantom as seen in PA, turned and shifted."""
    pose = make_pose("PA", isocenter_mm=shift_mm, sod_mm=1600, rotation_deg=rotation_deg)
    return render(VOLUME, PANEL, [pose], engine="reference", device="cpu")[0, 0]


def recover_pose(radiograph: Tensor, iterations: int = 80) -> tuple[Tensor, Tensor]:
    """Find the turn [degrees] and the shift [mm] with which a radiograph was taken."""
    rotation = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    steps = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [rotation, steps],
        max_iter=iterations,
        line_search_fn="strong_wolfe",
        history_size=20,
        tolerance_grad=0,
        tolerance_change=0,
    )

    def find_loss() -> Tensor:
        search.zero_grad()
        difference = take_picture(rotation, steps * SHIFT_UNITS) - radiograph
        loss = difference.square().mean() / radiograph.square().mean()
        loss.backward()
        return loss

    search.step(find_loss)
    return rotation.detach(), steps.detach() * SHIFT_UNITS


if __name__ == "__main__":
    turn, shift = torch.tensor([4.0, -3.0, 5.0]), torch.tensor([8.0, -6.0, 10.0])
    found_turn, found_shift = recover_pose(take_picture(turn, shift))
    print("turn  [degrees]: true", turn.tolist(), "found", found_turn.tolist())
    print("shift [mm]:      true", shift.tolist(), "found", found_shift.tolist())
