"""A demo data set of generated recordings in the files of UTD-MHAD."""

from collections.abc import Sequence
from pathlib import Path

from core.data.checks import DataError
from core.data.demo_folder import demo_folder
from har.data.activities import ACTIVITIES
from har.data.generator import IMU_RATE, SKELETON_RATE, generate

_FOLDERS, _PICTURES = ("Skeleton", "Inertial"), ("preview.png", "preview.gif")
# wave, basketball shot, tennis serve, jog, sit to stand, squat
_PREVIEW, _ANIMATED = (3, 7, 17, 22, 24, 27), 17


def write_demo(
    path: str | Path,
    seed: int = 0,
    subjects: int = 8,
    trials: int = 4,
    extra_seeds: Sequence[int] = (),
    extra_subjects: Sequence[int] | None = None,
    preview: bool = False,
) -> None:
    """Writes `Skeleton/a1_s1_t1_skeleton.mat`, `Inertial/a1_s1_t1_inertial.mat` and so on.

    The keys are UTD-MHAD's: `d_skel` (20, 3, frames) in metres at 30 Hz, `d_iner` (samples, 6) in g
    and deg/s at 50 Hz. The folder appears complete or not at all; an earlier demo in its place is
    replaced. 27 activities, 8 subjects and 4 trials are 36 MB.

    Args:
        path: the folder.
        seed: of everybody and all they do.
        subjects: 1 to this number.
        trials: of each subject and activity.
        extra_seeds: for more people: subject s of the first of these seeds is called 10 + s, of
            the second 20 + s.
        extra_subjects: which of the subjects to take from the extra seeds, all by default.
        preview: whether to add `preview.png` and `preview.gif`, pictures of some activities.

    Raises:
        DataError: `path` is something other than an empty folder or a demo, or unwritable; nobody,
            or more than nine subjects beside extra seeds.
    """
    if subjects < 1 or trials < 1:
        raise DataError(
            f"demo.subjects={subjects}, demo.trials={trials}", expected="at least 1 of both"
        )
    own = range(1, subjects + 1)
    extra = own if extra_subjects is None else extra_subjects
    people = [(seed, s, s) for s in own]
    people += [(k, s, 10 * i + s) for i, k in enumerate(extra_seeds, start=1) for s in extra]
    if len({called for *_, called in people}) < len(people) or (extra_seeds and subjects > 9):
        raise DataError(
            f"the numbers of {subjects} subjects and of those of extra seeds are not unique",
            expected="at most 9 subjects, each once",
            fix="lower subjects, or give no extra_seeds",
        )
    about = {"generator": "har", "seed": seed, "extra_seeds": list(extra_seeds)}
    with demo_folder(Path(path), {*_FOLDERS, *_PICTURES}, about) as folder:
        for name in _FOLDERS:
            (folder / name).mkdir()
        for drawn_with, person, called in people:
            for activity in range(1, len(ACTIVITIES) + 1):
                for trial in range(1, trials + 1):
                    name = f"a{activity}_s{called}_t{trial}"
                    _write_clip(folder, name, drawn_with, activity, person, trial)
        if preview:
            _draw_preview(folder, seed)


def _write_clip(
    folder: Path, name: str, seed: int, activity: int, subject: int, trial: int
) -> None:
    from scipy.io import savemat

    skeleton, inertial = generate(seed, activity, subject, trial)
    savemat(folder / "Skeleton" / f"{name}_skeleton.mat", {"d_skel": skeleton})
    savemat(folder / "Inertial" / f"{name}_inertial.mat", {"d_iner": inertial})


def _draw_preview(folder: Path, seed: int) -> None:
    """The first trial of the first subject, six activities, one of them moving."""
    from har.data.animation import animate
    from har.data.pictures import draw_activities
    from har.data.recordings import IMU, SKELETON, Recording, Recordings, Stream
    from har.data.utd_mhad import CHANNELS, CLASSES, EDGES, JOINTS

    shown = []
    for activity in _PREVIEW:
        skeleton, inertial = generate(seed, activity, 1, 1)
        streams = {
            SKELETON: Stream(skeleton.transpose(2, 0, 1), SKELETON_RATE),
            IMU: Stream(inertial, IMU_RATE),
        }
        shown.append(Recording(f"a{activity}_s1_t1", "1", activity - 1, streams))
    recordings = Recordings(shown, CLASSES, JOINTS, EDGES, CHANNELS)
    draw_activities(recordings, folder / "preview.png")
    animate(recordings, _PREVIEW.index(_ANIMATED), folder / "preview.gif")
