"""Make the tables in drrgen/physics/tables again: pip install spekpy xraydb, then run this.

Spectra: SpekPy (Poludniowski et al., Medical Physics 48:3630-3637, 2021), tungsten, anode angle
12 degrees, physics model casim, no filtration but the target's own; photons per mAs, cm2 and keV at
1 m. Detector: total cross-sections of caesium iodide by xraydb (Elam, Ravel and Sieber, Radiation
Physics and Chemistry 63:121-128, 2002), times the usual scintillator's area density.
"""

import datetime as dt
from pathlib import Path

import numpy as np
import spekpy
import xraydb

TABLES = Path(__file__).parents[1] / "drrgen" / "physics" / "tables"
KVP = range(50, 151, 5)
KEV = np.arange(10, 151)
ANODE_DEG = 12.0
CSI_G_PER_CM2 = 0.18  # 500 um of CsI:Tl, packed to 80 %


def write(name: str, head: list[str], columns: dict[str, np.ndarray], digits: int) -> None:
    """Write columns as CSV with its sources on top."""
    lines = [f"# {line}" for line in [*head, f"Made {dt.date.today()}."]]  # noqa: DTZ011
    lines.append(",".join(columns))
    lines += [
        ",".join(f"{x:.{digits}g}" for x in row) for row in zip(*columns.values(), strict=True)
    ]
    (TABLES / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_spectra() -> None:
    """Tabulate unfiltered tungsten spectra."""
    columns = {"kev": KEV.astype(float)}
    for kvp in KVP:
        energies, fluence = spekpy.Spek(
            kvp=kvp, th=ANODE_DEG, dk=0.25, physics="casim"
        ).get_spectrum()
        # Quarter bins add up to bins of 1 keV around whole energies.
        bins = np.floor(energies + 0.5)
        columns[f"kvp{kvp}"] = np.array([fluence[bins == e].sum() * 0.25 for e in KEV])
    head = [
        "Unfiltered X-ray spectra: photons per mAs, cm2 and keV at 1 m. Photon energy [keV].",
        f"Source: SpekPy {spekpy.__version__}, tungsten, anode {ANODE_DEG:g} degrees, casim.",
    ]
    write("spectra.csv", head, columns, 4)


def make_detector() -> None:
    """Tabulate the share of photons that the scintillator stops."""
    mass = np.array([xraydb.material_mu("CsI", 1e3 * e, density=1.0) for e in KEV])
    head = [
        "Share of photons stopped in a caesium iodide scintillator. Photon energy [keV].",
        f"Source: xraydb {xraydb.__version__}, total cross-section, {CSI_G_PER_CM2} g/cm2.",
    ]
    write(
        "detector.csv",
        head,
        {"kev": KEV.astype(float), "stopped": 1 - np.exp(-mass * CSI_G_PER_CM2)},
        5,
    )


def check_against_nist() -> None:
    """Print how far xraydb is from the shipped coefficients of NIST."""
    text = (TABLES / "mass_attenuation.csv").read_text("utf-8").splitlines()
    kept = [line for line in text if not line.startswith("#")]
    rows = np.genfromtxt(kept, delimiter=",", names=True)
    formulas = {"water": "H2O", "aluminium": "Al", "copper": "Cu"}
    for name, formula in formulas.items():
        found = np.array([xraydb.material_mu(formula, 1e3 * e, density=1.0) for e in rows["kev"]])
        print(name, "differs by [%]", np.round(100 * (found / rows[name] - 1), 2))


if __name__ == "__main__":
    make_spectra()
    make_detector()
    check_against_nist()
