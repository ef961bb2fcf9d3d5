"""A demo data set of generated CT with reports and segmentations, in a hospital's formats."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from core.data.demo_folder import demo_folder
from medical.data.phantom_reports import write_report
from medical.data.phantoms import CLASSES, Anatomy, Lesion, draw_anatomy, draw_lesions, grown, torso

_FOLDERS = ("images", "reports", "labels")
_FILES = ("cases.csv", "labels.json", "findings.json", "preview.png")
_FIELD = (375.0, 262.0, 335.0)  # mm that a scan covers, to the right, the front and the head
_AXES = ("LPS", "RAS", "LAS", "LPI", "ASR", "PIR")
_NOISE = 14.0  # HU
_N_LESIONS, _CHANCES = (0, 1, 2, 3), (0.15, 0.3, 0.3, 0.25)
_RETURNS, _TILTED, _STORED_FROM_ZERO = 0.25, 0.3, 0.3


@dataclass(frozen=True)
class Scan:
    """One generated examination.

    Attributes:
        id: of the case.
        patient: whose it is.
        lesions: what it holds.
        report: what a radiologist would write.
    """

    id: str
    patient: str
    lesions: list[Lesion]
    report: str


def write_demo(
    path: str | Path, seed: int = 0, patients: int = 40, voxel: float = 4.5, preview: bool = False
) -> None:
    """Writes `images/ct0001.nii.gz`, `reports/ct0001.txt`, `labels/ct0001.nii.gz` and so on.

    CT in HU, int16, of 40 patients, some of whom return with lesions that have grown; spacing,
    order and direction of the axes and tilt differ from scan to scan, and some files hold numbers
    from 0 with an intercept. `cases.csv` lists image, report, patient_id and label; `labels.json`
    names the classes; `findings.json` says what each case holds, and where in mm (RAS+), for tests
    of what a system has found. The folder appears complete or not at all; an earlier demo in its
    place is replaced.

    Args:
        path: the folder.
        seed: of everything.
        patients: how many.
        voxel: usual size of a voxel in mm.
        preview: whether to add `preview.png`, slices of some cases with their findings.

    Raises:
        DataError: `path` is something other than an empty folder or a demo, or unwritable.
    """
    about = {"generator": "torsos in CT", "seed": seed, "patients": patients, "voxel": voxel}
    with demo_folder(Path(path), {*_FOLDERS, *_FILES}, about) as folder:
        for name in _FOLDERS:
            (folder / name).mkdir()
        scans = []
        for number in range(1, patients + 1):
            rng = np.random.default_rng([seed, number])
            anatomy = draw_anatomy(rng)
            lesions = draw_lesions(rng, anatomy, int(rng.choice(_N_LESIONS, p=_CHANCES)))
            for visit in range(2 if rng.random() < _RETURNS else 1):
                if visit:
                    lesions = [grown(lesion, 1.15) for lesion in lesions]
                name = f"ct{len(scans) + 1:04d}"
                scan = Scan(name, f"p{number:03d}", lesions, write_report(rng, lesions))
                _write_scan(folder, scan, anatomy, voxel, rng)
                scans.append(scan)
        _write_lists(folder, scans)
        if preview:
            from medical.data.volume_pictures import draw_cases

            draw_cases(folder, [scan.id for scan in scans[:6]], folder / "preview.png")


def _write_scan(
    folder: Path, scan: Scan, anatomy: Anatomy, voxel: float, rng: np.random.Generator
) -> None:
    import nibabel
    from scipy.ndimage import gaussian_filter

    affine, shape = _grid(rng, voxel)
    steps = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    turned = affine.astype(np.float32)
    x, y, z = (
        sum(turned[row, axis] * steps[axis] for axis in range(3)) + turned[row, 3]
        for row in range(3)
    )
    clean, labels = torso(anatomy, scan.lesions, x, y, z)
    # What a scanner blurs, then its noise.
    hu = gaussian_filter(clean, 0.5) + rng.normal(0, _NOISE, shape)
    stored = np.clip(hu, -1024, 3071).round()
    if rng.random() < _STORED_FROM_ZERO:
        image = nibabel.Nifti1Image((stored + 1024).astype(np.int16), affine)
        image.header.set_slope_inter(1, -1024)
    else:
        image = nibabel.Nifti1Image(stored.astype(np.int16), affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, folder / "images" / f"{scan.id}.nii.gz")
    mask = nibabel.Nifti1Image(labels, affine)
    mask.header.set_xyzt_units("mm")
    nibabel.save(mask, folder / "labels" / f"{scan.id}.nii.gz")
    (folder / "reports" / f"{scan.id}.txt").write_text(scan.report, encoding="utf-8")


def _grid(
    rng: np.random.Generator, voxel: float
) -> tuple[Float64[np.ndarray, "4 4"], tuple[int, int, int]]:
    """Affine and shape of a scan around the middle of the torso."""
    from nibabel.orientations import axcodes2ornt
    from scipy.spatial.transform import Rotation

    in_plane, between = voxel * rng.uniform(0.85, 1.1), voxel * rng.uniform(0.9, 1.3)
    spacing = np.array([in_plane, in_plane, between])
    orientation = axcodes2ornt(str(rng.choice(_AXES)))
    turned = np.zeros((3, 3))
    shape = [0, 0, 0]
    for axis, (world, direction) in enumerate(orientation):
        turned[int(world), axis] = direction * spacing[int(world)]
        shape[axis] = round(_FIELD[int(world)] / spacing[int(world)])
    if rng.random() < _TILTED:
        tilt = Rotation.from_euler("xyz", rng.uniform(-6, 6, 3), degrees=True)
        turned = tilt.as_matrix() @ turned
    affine = np.eye(4)
    affine[:3, :3] = turned
    affine[:3, 3] = rng.normal(0, 3, 3) - turned @ (np.array(shape) - 1) / 2
    # NIfTI keeps affines in single precision.
    return affine.astype(np.float32).astype(np.float64), (shape[0], shape[1], shape[2])


def _write_lists(folder: Path, scans: list[Scan]) -> None:
    lines = ["image,report,patient_id,label"]
    for scan in scans:
        image, label = (f"{name}/{scan.id}.nii.gz" for name in ("images", "labels"))
        lines.append(f"{image},reports/{scan.id}.txt,{scan.patient},{label}")
    (folder / "cases.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    known = {
        scan.id: [
            {"kind": one.kind, "site": one.site, "size_mm": one.size, "centre_mm": one.centre}
            for one in scan.lesions
        ]
        for scan in scans
    }
    (folder / "findings.json").write_text(json.dumps(known, indent=1), encoding="utf-8")
    names = {str(number): name for number, name in enumerate(CLASSES)}
    (folder / "labels.json").write_text(json.dumps(names, indent=1), encoding="utf-8")
