"""A small shop with nobody's data in it, for the quickstart and for tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recinject.data.readers import make_log
from recinject.data.schema import Flags, Floats, Integers, Log
from recinject.foundation.errors import RecinjectError
from recinject.foundation.randomness import derive_rng

MIN_EVENTS = 5
SUCCESSORS = 3
_FOLLOW = 0.6  # some picks are of items used before and fall back on taste: about half remain
_SUCCESSOR_SHARES = (0.5, 0.3, 0.2)
_LAST_ITEM_SHARE = 0.7
_START = 1_640_995_200  # 1 January 2022
_TWO_YEARS = 2 * 365 * 86_400
_USERS_AT_ONCE = 1024

_ADJECTIVES = (
    "Classic,Compact,Everyday,Heritage,Lightweight,Premium,Pro,Slim,Travel,Ultra,Junior,Deluxe"
)
# Three lines a category: its name and brands, its materials and makes, its products.
_ASSORTMENT = """
camping: Alpenfell,Northcairn,Wildmark,Tarnside,Emberpine
Titanium,Ripstop,Waterproof,Down,Folding,Insulated
Tent,Sleeping Bag,Stove,Headlamp,Cook Set,Hammock,Lantern,Tarp,Camp Chair,Water Filter
coffee: Beanworth,Crema Lane,Mokador,Slowpour,Kettle & Oak
Ceramic,Stainless Steel,Glass,Copper,Burr,Matte Black
Grinder,Dripper,French Press,Kettle,Tamper,Milk Frother,Coffee Scale,Filter Set,Mug,Moka Pot
cycling: Velmont,Spokeworks,Chainline,Ridgepedal,Cadenza
Carbon,Alloy,Reflective,Gel,Tubeless,Aero
Helmet,Saddle,Pedal Set,Tail Light,Bottle Cage,Bar Tape,Floor Pump,Multi-Tool,Frame Bag,Gloves
gardening: Greenhollow,Thistle & Spade,Loamcraft,Fernwick,Rootwell
Cedar,Galvanised,Bamboo,Terracotta,Forged,Recycled
Planter,Shears,Watering Can,Trowel,Seed Tray,Hose,Compost Bin,Trellis,Kneeling Pad,Plant Labels
baking: Crumb & Co,Ovenbird,Flourish,Doughmaster,Butterfield
Silicone,Cast Iron,Nonstick,Wooden,Aluminium,Marble
Rolling Pin,Loaf Pan,Bowl,Muffin Tin,Piping Set,Dough Scraper,Rack,Cake Stand,Basket,Cutters
board games: Meeple House,Dicewell,Foxglove Games,Tabletop North,Gambit Hall
Cooperative,Two-Player,Wooden,Magnetic,Illustrated,Strategy
Tile Game,Card Game,Dice Set,Puzzle,Word Game,Quiz,Chess Set,Party Game,Expansion,Card Sleeves
photography: Lumenar,Apertura,Stillframe,Optiq,Shutterhill
Carbon Fibre,Leather,Padded,Magnetic,Bicolour,Weatherproof
Tripod,Strap,Lens Filter,Camera Bag,LED Panel,Lens Cap,Card Case,Gimbal,Softbox,Shutter Remote
fitness: Ironbloom,Pulseform,Kinetra,Stridewell,Corelift
Cork,Foam,Adjustable,Textured,Weighted,Neoprene
Yoga Mat,Dumbbells,Bands,Roller,Jump Rope,Kettlebell,Pull-Up Bar,Gym Bag,Vest,Balance Board
stationery: Inkwell & Sons,Papermoon,Quillon,Marginalia,Notabene
Linen,Dotted,Brass,Leather,Pastel,Refillable
Notebook,Fountain Pen,Gel Pens,Tape,Organiser,Sketchbook,Planner,Pencil Case,Ink,Sticky Notes
pet care: Pawsome & Kin,Whiskerfield,Tailmates,Barkley Row,Furrow
Orthopaedic,Plush,Rope,Washable,Elevated,Chew-Proof
Dog Bed,Leash,Cat Tree,Food Bowl,Brush,Chew Toy,Pet Carrier,Scratching Post,Pouch,Fountain
""".strip().split("\n")
_CATEGORIES, _BRANDS = zip(*(line.split(": ") for line in _ASSORTMENT[::3]), strict=True)
_SHELVES = list(zip(_BRANDS, _ASSORTMENT[1::3], _ASSORTMENT[2::3], strict=True))


@dataclass(frozen=True, eq=False)
class _Shop:
    frame: pd.DataFrame
    category: Integers
    brand: Integers
    popularity: Floats
    quality: Floats
    successors: Integers


def simulate_shop(*, users: int, items: int, events_per_user: int, seed: int) -> Log:
    """Simulate a shop whose customers have tastes and follow up on what they just bought.

    Items belong to one of ten categories and to one of its five brands. Their popularity falls as a
    power of a random rank, and their quality is independent of it. Every item has three
    *successors* of its own category, drawn evenly: what follows an item is mostly not popular.

    A user has a taste, drawn from a sparse Dirichlet over categories, and in each category a
    favourite brand. About every second event is a successor of the last item, or of the one before
    it; the others are drawn by taste times popularity. Nobody uses an item twice. A rating is the
    item's quality plus the user's taste for it, the user's leniency and noise, rounded to 1 to 5
    stars. Each user's events fall, in order, in a span of their own within two years.

    So popularity beats chance, co-occurrence beats popularity and order beats co-occurrence, while
    half of the events stay hard to foresee. Items that nobody uses are not in the log, and everyone
    has five events or more, on average ``events_per_user``.

    Raises:
        RecinjectError: a number is too small, or too few items for so many events.
    """
    if users < 1:
        raise RecinjectError(f"data: {users} users make no shop", hint="ask for at least one user")
    if events_per_user < MIN_EVENTS:
        raise RecinjectError(
            f"data: {events_per_user} events a user are too few",
            hint=f"everyone has at least {MIN_EVENTS}: ask for at least as many",
        )
    if items < 3 * events_per_user:
        raise RecinjectError(
            f"data: {items} items are too few for {events_per_user} events a user",
            hint=f"nobody uses an item twice: ask for at least {3 * events_per_user} items",
        )
    shop = _stock(items, seed)
    blocks = [
        _visit(shop, np.arange(start, min(start + _USERS_AT_ONCE, users)), events_per_user, seed)
        for start in range(0, users, _USERS_AT_ONCE)
    ]
    events = pd.concat(blocks, ignore_index=True)
    return make_log(events, shop.frame, f"simulated shop, seed {seed}")


def _stock(items: int, seed: int) -> _Shop:
    rng = derive_rng(seed, "simulator", "shop")
    category = rng.integers(len(_SHELVES), size=items).astype(np.int32)
    frame, brands = _label(category, rng)
    ranks = rng.permutation(items)
    return _Shop(
        frame=frame,
        category=category,
        brand=brands,
        popularity=np.power(ranks + items / 50, -1.0),
        quality=rng.normal(size=items),
        successors=_pair_up(category, rng),
    )


def _label(category: Integers, rng: np.random.Generator) -> tuple[pd.DataFrame, Integers]:
    draws = rng.integers(1 << 30, size=(len(category), 4))
    rows = []
    for item, (shelf, draw) in enumerate(zip(category, draws, strict=True)):
        words = [text.split(",") for text in (*_SHELVES[shelf], _ADJECTIVES)]
        brand, make, product, adjective = (
            options[number % len(options)] for options, number in zip(words, draw, strict=True)
        )
        title = f"{brand} {adjective} {make} {product}"
        rows.append((f"P{item:05d}", title, brand, _CATEGORIES[shelf]))
    frame = pd.DataFrame(rows, columns=["item_id", "title", "brand", "category"], dtype=object)
    return frame, (draws[:, 0] % 5).astype(np.int32)


def _pair_up(category: Integers, rng: np.random.Generator) -> Integers:
    """Draw each item's successors from its category, all different; shape (items, 3)."""
    successors = np.empty((len(category), SUCCESSORS), np.int32)
    for shelf in np.unique(category):
        members = np.flatnonzero(category == shelf)
        pool = members if len(members) > SUCCESSORS else np.arange(len(category))
        distance = rng.random((len(members), len(pool)))
        distance[members[:, None] == pool] = np.inf
        successors[members] = pool[np.argsort(distance, axis=1)[:, :SUCCESSORS]]
    return successors


def _visit(shop: _Shop, users: NDArray[np.int64], events_per_user: int, seed: int) -> pd.DataFrame:
    """Simulate the events of some users, a row an event."""
    rng = derive_rng(seed, "simulator", "users", int(users[0]))
    n, items = len(users), len(shop.category)
    tastes = rng.dirichlet(np.full(len(_SHELVES), 0.4), size=n)
    favourites = rng.integers(5, size=(n, len(_SHELVES)))
    match = tastes[:, shop.category] * (1 + 2 * (favourites[:, shop.category] == shop.brand))
    extra = rng.poisson(rng.gamma(1.5, (events_per_user - MIN_EVENTS) / 1.5, size=n))
    lengths = np.minimum(MIN_EVENTS + extra, items // 2)
    baskets = _shop_along(shop, (match + 1e-3) * shop.popularity, int(lengths.max()), rng)
    taken = np.arange(baskets.shape[1]) < lengths[:, None]
    ratings, times = _rate(shop, match, baskets, rng), _times(taken, rng)
    return pd.DataFrame(
        {
            "user_id": np.repeat([f"U{user:05d}" for user in users], lengths),
            "item_id": shop.frame["item_id"].to_numpy()[baskets[taken]],
            "rating": ratings[taken],
            "timestamp": times[taken],
        }
    )


def _shop_along(shop: _Shop, appeal: Floats, steps: int, rng: np.random.Generator) -> Integers:
    """Take ``steps`` items for each user, one after another; shape (users, steps)."""
    rows = np.arange(len(appeal))
    baskets = np.zeros((len(rows), steps), np.int32)
    left = appeal.copy()
    for step in range(steps):
        sums = np.cumsum(left, axis=1)
        picks = (sums < rng.random((len(rows), 1)) * sums[:, -1:]).sum(axis=1)
        back = 1 + (rng.random(len(rows)) > _LAST_ITEM_SHARE) if step > 1 else min(step, 1)
        source = baskets[rows, step - back]
        branch = rng.choice(SUCCESSORS, size=len(rows), p=_SUCCESSOR_SHARES)
        followed = shop.successors[source, branch]
        follow = (rng.random(len(rows)) < _FOLLOW) & (left[rows, followed] > 0) & (step > 0)
        baskets[:, step] = np.where(follow, followed, picks)
        left[rows, baskets[:, step]] = 0
    return baskets


def _rate(shop: _Shop, match: Floats, baskets: Integers, rng: np.random.Generator) -> Floats:
    leniency = rng.normal(size=(len(baskets), 1))
    liking = np.sqrt(np.take_along_axis(match, baskets, axis=1))
    liking = (liking - liking.mean()) / liking.std()
    noise = rng.normal(size=baskets.shape)
    stars = 4.0 + 0.6 * shop.quality[baskets] + 0.4 * liking + 0.5 * leniency + noise
    return np.asarray(np.clip(np.rint(stars), 1, 5), np.float64)


def _times(taken: Flags, rng: np.random.Generator) -> Floats:
    """Spread each user's events over a span of their own; whole seconds, ascending."""
    gaps = rng.exponential(size=taken.shape) * taken
    passed = np.cumsum(gaps, axis=1) / gaps.sum(axis=1, keepdims=True)
    start, end = np.sort(rng.random((2, len(taken), 1)), axis=0)
    seconds = (start + (end - start) * passed) * (_TWO_YEARS - taken.shape[1])
    return np.asarray(np.floor(_START + seconds) + np.arange(taken.shape[1]), np.float64)
