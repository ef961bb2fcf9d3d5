"""Files of volumes that tests write."""

from pathlib import Path

import nibabel
import numpy as np


def oblique(spacing: tuple[float, float, float] = (0.8, 0.9, 3.0), axes: str = "LAI") -> np.ndarray:
    """An affine turned by some degrees about all axes."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("xyz", [9, -6, 4], degrees=True).as_matrix()
    matrix = np.zeros((3, 3))
    for axis, letter in enumerate(axes):
        world = next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        matrix[world, axis] = spacing[axis] * (1 if letter in "RAS" else -1)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ matrix, (40, -30, 55)
    return affine.astype(np.float32).astype(np.float64)


def hu(shape: tuple[int, ...] = (20, 18, 16), seed: int = 0) -> np.ndarray:
    """Numbers as of CT, with air around."""
    values = np.random.default_rng(seed).integers(-150, 240, shape).astype(np.int16)
    values[0] = values[-1] = -1000
    return values


def save(
    file: Path,
    values: np.ndarray | None = None,
    affine: np.ndarray | None = None,
    slope: float | None = None,
    intercept: float | None = None,
) -> Path:
    """Writes a NIfTI file."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
    image = nibabel.Nifti1Image(hu() if values is None else values, affine)
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, file)
    return file


def save_series(
    folder: Path,
    values: np.ndarray,
    series: str = "1.2.3.4",
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    origin: tuple[float, float, float] = (-10, -20, 30),
    spacing: tuple[float, float, float] = (0.7, 0.9, 2.5),
    rescale: tuple[float, float] | None = (2.0, -1000.0),
    patient: str = "p7",
) -> Path:
    """Writes a CT series, one file a slice: `values[column, row, slice]` as stored."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(orientation[:3], orientation[3:])
    for number in range(values.shape[2]):
        data = pydicom.Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.SeriesInstanceUID, data.StudyInstanceUID = series, "1.2.3"
        data.Modality, data.PatientID, data.SeriesDescription = "CT", patient, f"body {series}"
        data.Rows, data.Columns = values.shape[1], values.shape[0]
        data.PixelSpacing = [spacing[1], spacing[0]]
        data.SliceThickness = spacing[2]
        data.ImageOrientationPatient = list(orientation)
        data.ImagePositionPatient = [
            round(float(v), 6) for v in np.array(origin) + number * spacing[2] * normal
        ]
        data.InstanceNumber = number + 1
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 0
        if rescale is not None:
            data.RescaleSlope, data.RescaleIntercept = rescale
        data.PixelData = np.ascontiguousarray(values[:, :, number].T.astype(np.uint16)).tobytes()
        # Names whose order is not that of the slices.
        name = f"{(number * 7) % values.shape[2]:03}-{series}.dcm"
        data.save_as(folder / name, enforce_file_format=True)
    return folder
