"""Which files belong together: folders of one GeoTIFF a scene, or the folders of SSL4EO-S12.

`scenes`: `optical/NAME.tif` and `radar/NAME.tif`, of all bands each, whose descriptions name them;
a land-cover map is `land_cover/NAME.tif`. Files may be whole scenes or chips.

`ssl4eo`: `s2a/PLACE/PRODUCT/B1.tif` and `s1/PLACE/PRODUCT/VV.tif`, one band a file, coarser bands
with fewer pixels. The products of a place are paired in the order of the dates in their names
(those of Sentinel-1 begin with the satellite: `S1B_IW_GRDH_1SDV_20200607T...`), then of the names;
a map is `land_cover/PLACE.tif`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from core.data.checks import DataError
from remote_sensing.data.bands import OPTICAL, RADAR, canonical_band, sorted_bands
from remote_sensing.data.rasters import Band, Scene, opened

COVER = "land_cover"
_SSL4EO = {OPTICAL: ("s2a", "s2c", "s2l2a"), RADAR: ("s1",)}
_SUFFIXES = (".tif", ".tiff")
_FORMATS = "auto, scenes or ssl4eo"
_DATE = re.compile(r"(?<!\d)(19|20)\d{6}(?!\d)")

Bands = dict[str, Sequence[str] | None]


def find_scenes(path: str | Path, format: str, sensors: Sequence[str], bands: Bands) -> list[Scene]:
    """The scenes of a folder, by name.

    Args:
        path: the folder.
        format: `scenes`, `ssl4eo`, or `auto`, which goes by what lies there.
        sensors: that every scene must have.
        bands: sensor -> the bands to take, in the order of the tensor; None takes those of the
            first scene, in the printed order.

    Raises:
        DataError: nothing is there, a file has no partner, or a band is missing.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError("no such folder", path=path, expected="a folder of GeoTIFFs")
    if format == "auto":
        format = "ssl4eo" if any(_ssl4eo_folder(path, s) for s in sensors) else "scenes"
    if format not in ("scenes", "ssl4eo"):
        raise DataError(f"data.format={format}", expected=_FORMATS)
    wanted = {
        sensor: None if names is None else [canonical_band(name, sensor) for name in names]
        for sensor, names in bands.items()
    }
    find = _products if format == "ssl4eo" else _files
    found = find(path, sensors)
    if not found:
        raise DataError(
            f"no GeoTIFFs of {' and '.join(sensors)}",
            path=path,
            expected="optical/NAME.tif and radar/NAME.tif, or s2a/PLACE/PRODUCT/B1.tif and "
            "s1/PLACE/PRODUCT/VV.tif",
            fix="give data.path=DIR of such a folder, or data.format",
        )
    return [_ordered(scene, wanted, found[0]) for scene in found]


def _files(path: Path, sensors: Sequence[str]) -> list[Scene]:
    files = {sensor: _rasters(path / sensor) for sensor in sensors}
    names = sorted({name for of in files.values() for name in of})
    covers = _rasters(path / COVER)
    scenes = []
    for name in names:
        for sensor in sensors:
            if name not in files[sensor]:
                other = next(of[name] for of in files.values() if name in of)
                raise _lonely(other, sensor)
        bands = {sensor: bands_of(files[sensor][name], sensor) for sensor in sensors}
        scenes.append(Scene(name, bands, covers.get(name), name))
    return scenes


def _products(path: Path, sensors: Sequence[str]) -> list[Scene]:
    roots = {sensor: _ssl4eo_folder(path, sensor) for sensor in sensors}
    for sensor, root in roots.items():
        if root is None:
            raise DataError(
                f"no folder of {sensor}",
                path=path,
                expected=" or ".join(f"{name}/" for name in _SSL4EO[sensor]),
                fix=f"give data.sensors without {sensor}, or another data.path",
            )
    places = sorted({p.name for root in roots.values() if root for p in _folders(root)})
    covers = _rasters(path / COVER)
    scenes = []
    for place in places:
        products = {}
        for sensor, root in roots.items():
            assert root is not None
            products[sensor] = sorted(_folders(root / place), key=_by_date)
        counts = {sensor: len(of) for sensor, of in products.items()}
        if len(set(counts.values())) > 1 or 0 in counts.values():
            said = ", ".join(f"{n} of {sensor}" for sensor, n in counts.items())
            raise DataError(
                f"products of place {place}: {said}",
                path=path,
                expected="as many of each sensor, in the same order of dates",
                fix="take out those without a partner",
            )
        for number in range(next(iter(counts.values()))):
            bands = {s: _band_files(of[number], s) for s, of in products.items()}
            single = len(next(iter(products.values()))) == 1
            name = place if single else f"{place}_{number}"
            scenes.append(Scene(name, bands, covers.get(place), place))
    return scenes


def _folders(path: Path) -> list[Path]:
    return [p for p in path.glob("*") if p.is_dir() and not p.name.startswith(".")]


def _by_date(product: Path) -> tuple[str, str]:
    date = _DATE.search(product.name)
    return date[0] if date else "", product.name


def bands_of(file: Path, sensor: str) -> list[Band]:
    """The bands of a multi-band file, by their descriptions.

    Raises:
        DataError: a band has no description, or one that the sensor does not have.
    """
    with opened(file) as source:
        descriptions = source.descriptions
    found = []
    for index, name in enumerate(descriptions, 1):
        if not name:
            raise DataError(
                f"band {index} of {len(descriptions)} has no name",
                path=file,
                expected="a description of each band, such as B02 or VV",
                fix="write them: gdal_edit.py, or rasterio's set_band_description",
            )
        try:
            found.append(Band(canonical_band(name, sensor), file, index))
        except DataError as error:
            raise DataError(error.found, path=file, expected=error.expected) from None
    names = [band.name for band in found]
    if len(set(names)) < len(names):
        raise DataError(f"two bands of one name in {', '.join(names)}", path=file)
    return found


def _band_files(folder: Path, sensor: str) -> list[Band]:
    found = []
    for name, file in _rasters(folder).items():
        try:
            found.append(Band(canonical_band(name, sensor), file))
        except DataError as error:
            raise DataError(error.found, path=file, expected=error.expected) from None
    if not found:
        raise DataError("no GeoTIFF", path=folder, expected=f"one of each band of {sensor}")
    return found


def _ordered(scene: Scene, wanted: dict[str, list[str] | None], first: Scene) -> Scene:
    bands = {}
    for sensor, own in scene.bands.items():
        names = wanted.get(sensor) or sorted_bands([b.name for b in first.bands[sensor]], sensor)
        by_name = {band.name: band for band in own}
        missing = [name for name in names if name not in by_name]
        if missing:
            file = own[0].file
            raise DataError(
                f"{sensor} has no band {', '.join(missing)}",
                path=file if len({band.file for band in own}) == 1 else file.parent,
                expected=", ".join(names),
                fix=f"fetch it, or name the bands to take: data.{sensor}_bands=[...]",
            )
        bands[sensor] = [by_name[name] for name in names]
    return Scene(scene.name, bands, scene.cover, scene.place)


def _rasters(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    files = [f for f in sorted(folder.iterdir()) if not f.name.startswith(".")]
    return {f.stem: f for f in files if f.suffix.lower() in _SUFFIXES}


def _ssl4eo_folder(path: Path, sensor: str) -> Path | None:
    return next((path / name for name in _SSL4EO[sensor] if (path / name).is_dir()), None)


def _lonely(file: Path, sensor: str) -> DataError:
    return DataError(
        f"has no partner of {sensor}",
        path=file,
        expected=f"{file.parent.parent / sensor / file.name}",
        fix="add it, take this one out, or give data.sensors with one sensor",
    )
