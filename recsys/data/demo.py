"""Generated interactions with images and texts (G-RS), and a demo data set in the field's files.

Users and items have latent tastes around common topics; users take items by taste, popularity and
chance; images and texts are noisy functions of the item's latent taste.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float32, Int64

from core.data.demo_folder import demo_folder
from recsys.data.splits import ratio_labels

_FEATURES = ("image_feat.npy", "text_feat.npy")
_USERS_AT_ONCE = 1000
_DEPARTMENTS = {
    "coffee": ("espresso cup", "coffee grinder", "moka pot"),
    "garden": ("watering can", "pruning shears", "seed tray"),
    "camping": ("two-person tent", "sleeping bag", "camp stove"),
    "cycling": ("bike helmet", "chain lube", "handlebar bag"),
    "baby": ("baby bottle", "teething ring", "stroller cover"),
    "kitchen knives": ("chef's knife", "paring knife", "sharpening stone"),
    "fishing": ("fly rod", "tackle box", "landing net"),
    "yoga": ("yoga mat", "cork block", "stretching strap"),
    "aquarium": ("fish tank", "water filter", "heater rod"),
    "woodworking": ("hand plane", "chisel set", "bench clamp"),
    "painting": ("watercolour set", "easel", "sable brush"),
    "astronomy": ("telescope", "star chart", "eyepiece"),
    "board games": ("dice game", "strategy game", "card game"),
    "sewing": ("sewing machine", "thread box", "fabric scissors"),
    "running": ("running shoe", "sweat band", "hydration belt"),
    "guitar": ("guitar strings", "capo", "guitar strap"),
    "lighting": ("desk lamp", "lamp shade", "string lights"),
    "bathroom": ("bath towel", "soap dish", "shower curtain"),
    "dogs": ("dog leash", "dog bed", "chew toy"),
    "office": ("fountain pen", "paper tray", "desk organiser"),
}
_ADJECTIVES = (
    *("Compact", "Classic", "Sturdy", "Light", "Folding", "Green", "Blue", "Large"),
    *("Small", "Quiet", "Everyday", "Premium", "Simple", "Travel", "Soft", "Nordic"),
)


@dataclass(frozen=True)
class GRS:
    """A generated data set.

    Attributes:
        users: user of each interaction, sorted.
        items: item of each interaction, shuffled within the user.
        label: 0 train, 1 validation, 2 test.
        image: image features of the items, not negative.
        text: text features of the items, rows of length 1.
        topic: the topic that each item was drawn around, 0 to n_topics - 1.
    """

    users: Int64[np.ndarray, " n"]
    items: Int64[np.ndarray, " n"]
    label: Int64[np.ndarray, " n"]
    image: Float32[np.ndarray, "n_items d_img"]
    text: Float32[np.ndarray, "n_items d_txt"]
    topic: Int64[np.ndarray, " n_items"]


def generate_grs(
    seed: int,
    n_users: int,
    n_items: int,
    mean_extra: float = 3.0,
    n_topics: int = 20,
    d_lat: int = 16,
    beta: float = 1.5,
    pop_exp: float = 0.7,
    d_img: int = 64,
    d_txt: int = 32,
    img_noise: float = 1.5,
    txt_noise: float = 1.0,
) -> GRS:
    """Draws a data set; equal arguments give equal data.

    Args:
        seed: of every draw.
        n_users: number of users, each with 5 to 100 items (all items, if there are fewer).
        n_items: number of items, each taken at least once.
        mean_extra: mean number of items of a user beyond five.
        n_topics: number of topics.
        d_lat: width of the latent tastes.
        beta: weight of taste against popularity and chance.
        pop_exp: exponent of the popularity law.
        d_img: width of the image features.
        d_txt: width of the text features.
        img_noise: standard deviation of the noise in images.
        txt_noise: standard deviation of the noise in texts.
    """
    rng = np.random.default_rng(seed)
    mu = rng.standard_normal((n_topics, d_lat))
    topic = rng.integers(0, n_topics, n_items)
    z = _to_length(mu[topic] + 0.6 * rng.standard_normal((n_items, d_lat)), 1.0)
    log_popularity = -pop_exp * np.log(rng.permutation(n_items) + 1)
    users, items = _interactions(rng, mu, z, log_popularity, n_users, mean_extra, beta)

    shuffled = rng.permutation(len(users))
    shuffled = shuffled[np.argsort(users[shuffled], kind="stable")]
    users, items = users[shuffled], items[shuffled]

    to_image = rng.standard_normal((d_lat, d_img))
    to_text = rng.standard_normal((d_lat, d_txt))
    image = np.maximum(z @ to_image + img_noise * rng.standard_normal((n_items, d_img)), 0)
    text = np.tanh(z @ to_text + txt_noise * rng.standard_normal((n_items, d_txt)))
    return GRS(
        users=users,
        items=items,
        label=ratio_labels(users, (0.8, 0.1, 0.1)).astype(np.int64),
        image=image.astype(np.float32),
        text=_to_length(text, 1.0).astype(np.float32),
        topic=topic,
    )


def _interactions(
    rng: np.random.Generator,
    mu: np.ndarray,
    z: np.ndarray,
    log_popularity: np.ndarray,
    n_users: int,
    mean_extra: float,
    beta: float,
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Users and items: each user takes the items of largest perturbed utility, then the rest."""
    n_topics, d_lat = mu.shape
    n_items = len(z)
    liked = rng.integers(0, n_topics, (n_users, 2))
    share = rng.uniform(0.3, 0.7, (n_users, 1))
    taste = share * mu[liked[:, 0]] + (1 - share) * mu[liked[:, 1]]
    taste = taste + 0.3 * rng.standard_normal((n_users, d_lat))
    taste = _to_length(taste, np.sqrt(d_lat))
    degree = 5 + np.minimum(rng.geometric(1 / (mean_extra + 1), n_users) - 1, 95)
    degree = np.minimum(degree, n_items)

    chosen = []
    for start in range(0, n_users, _USERS_AT_ONCE):
        block = degree[start : start + _USERS_AT_ONCE]
        utility = beta * taste[start : start + _USERS_AT_ONCE] @ z.T + log_popularity
        utility += rng.gumbel(size=utility.shape)
        top = np.argpartition(utility, n_items - block.max(), axis=1)[:, -block.max() :]
        falling = np.argsort(-np.take_along_axis(utility, top, axis=1), axis=1)
        top = np.take_along_axis(top, falling, axis=1)
        chosen.append(top[np.arange(block.max()) < block[:, None]])
    users, items = np.repeat(np.arange(n_users), degree), np.concatenate(chosen)

    untaken = np.flatnonzero(np.bincount(items, minlength=n_items) == 0)
    takers = rng.integers(0, n_users, len(untaken))
    return np.concatenate([users, takers]), np.concatenate([items, untaken])


def _to_length(rows: np.ndarray, length: float) -> np.ndarray:
    return length * rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_demo(
    path: str | Path,
    seed: int = 0,
    n_users: int = 1500,
    n_items: int = 600,
    mean_extra: float = 3.0,
    n_topics: int = 20,
    d_lat: int = 16,
    beta: float = 1.5,
    d_img: int = 64,
    d_txt: int = 32,
    img_noise: float = 1.5,
    txt_noise: float = 1.0,
) -> None:
    """Writes G-RS as a folder of MMRec files: `<name>.inter`, image and text features, titles.

    The folder appears complete or not at all; an earlier demo in its place is replaced. Times grow
    within each user in the order of train, validation, test. The arguments are those of
    `generate_grs`.

    Raises:
        DataError: if `path` is something other than an empty folder or a demo, or unwritable.
    """
    path = Path(path).resolve()
    own = {*_FEATURES, "items.csv", f"{path.name}.inter"}
    about = {"generator": "G-RS", "seed": seed, "users": n_users, "items": n_items}
    with demo_folder(path, own, about) as folder:
        data = generate_grs(
            seed,
            n_users,
            n_items,
            mean_extra,
            n_topics,
            d_lat,
            beta,
            d_img=d_img,
            d_txt=d_txt,
            img_noise=img_noise,
            txt_noise=txt_noise,
        )
        # Ratings, times and titles come from a stream of their own: G-RS stays as defined.
        rng = np.random.default_rng([seed, 1])
        _interaction_table(data, rng).write_csv(folder / f"{path.name}.inter", separator="\t")
        _item_table(data.topic, rng).write_csv(folder / "items.csv")
        for file, table in zip(_FEATURES, (data.image, data.text), strict=True):
            np.save(folder / file, table)


def _interaction_table(data: GRS, rng: np.random.Generator) -> pl.DataFrame:
    year = 365 * 24 * 3600
    times = 1_600_000_000 + rng.integers(0, year, len(data.users))
    return pl.DataFrame(
        {
            "userID": data.users,
            "itemID": data.items,
            "rating": rng.integers(3, 6, len(data.users)).astype(float),
            "timestamp": times[np.lexsort((times, data.users))],
            "x_label": data.label,
        }
    )


def _item_table(topic: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    departments = list(_DEPARTMENTS)
    adjectives = rng.choice(_ADJECTIVES, len(topic))
    nouns = rng.integers(0, 3, len(topic))
    names, titles = [], []
    for item, (kind, adjective, noun) in enumerate(zip(topic, adjectives, nouns, strict=True)):
        round_, place = divmod(int(kind), len(departments))
        name = departments[place]
        names.append(f"{name} {round_ + 1}" if round_ else name)
        titles.append(f"{adjective} {_DEPARTMENTS[name][noun]} {item}")
    return pl.DataFrame({"itemID": np.arange(len(topic)), "title": titles, "topic": names})
