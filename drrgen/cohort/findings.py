"""Every kind of finding, and the function that draws it."""

from collections.abc import Callable

from drrgen.cohort.canvas import Canvas, Drawn
from drrgen.cohort.chest import (
    draw_aortic_calcium,
    draw_cardiomegaly,
    draw_coronary_calcium,
    draw_hernia,
    draw_material,
    draw_node,
    draw_pericardial_effusion,
)
from drrgen.cohort.kinds import Finding, Kind
from drrgen.cohort.lungs import draw_atelectasis, draw_emphysema, draw_nodule, draw_opacity
from drrgen.cohort.pleura import draw_effusion, draw_pneumothorax, draw_pressed_lung

Draw = Callable[[Canvas, Finding, float], Drawn | None]

DRAW: dict[Kind, Draw] = {
    Kind.EMPHYSEMA: draw_emphysema,
    Kind.GROUND_GLASS: draw_opacity,
    Kind.CONSOLIDATION: draw_opacity,
    Kind.ATELECTASIS: draw_atelectasis,
    Kind.PNEUMOTHORAX: draw_pneumothorax,
    Kind.PLEURAL_EFFUSION: draw_effusion,
    Kind.CARDIOMEGALY: draw_cardiomegaly,
    Kind.PERICARDIAL_EFFUSION: draw_pericardial_effusion,
    Kind.HIATAL_HERNIA: draw_hernia,
    Kind.LYMPHADENOPATHY: draw_node,
    Kind.MASS: draw_nodule,
    Kind.NODULE: draw_nodule,
    Kind.CORONARY_CALCIFICATION: draw_coronary_calcium,
    Kind.AORTIC_CALCIFICATION: draw_aortic_calcium,
    Kind.MEDICAL_MATERIAL: draw_material,
}


def draw_finding(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw a finding as it is at one scan; None where this patient has no room for it.

    Args:
        canvas: The scan; it is left as it is.
        finding: What was planned.
        factor: On its amount, at this scan.
    """
    if finding.variant == "compressive":
        return draw_pressed_lung(canvas, finding, factor)
    return DRAW[finding.kind](canvas, finding, factor)
