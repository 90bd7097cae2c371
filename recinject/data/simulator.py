"""A small shop with nobody's data in it, for the quickstart and for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
_USER = "U{:05d}"

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
    n, items = len(users), len(shop.category)
    tastes, favourites, rng = _meet(users, seed)
    match = _match(shop, tastes, favourites)
    extra = rng.poisson(rng.gamma(1.5, (events_per_user - MIN_EVENTS) / 1.5, size=n))
    lengths = np.minimum(MIN_EVENTS + extra, items // 2)
    baskets = _shop_along(shop, _appeal(shop, match), int(lengths.max()), rng)
    taken = np.arange(baskets.shape[1]) < lengths[:, None]
    ratings, times = _rate(shop, match, baskets, rng), _times(taken, rng)
    return pd.DataFrame(
        {
            "user_id": np.repeat([_USER.format(user) for user in users], lengths),
            "item_id": shop.frame["item_id"].to_numpy()[baskets[taken]],
            "rating": ratings[taken],
            "timestamp": times[taken],
        }
    )


def _meet(
    users: NDArray[np.int64], seed: int
) -> tuple[Floats, NDArray[np.int64], np.random.Generator]:
    """Draw users' tastes and favourite brands by category; return the chance of what they do."""
    rng = derive_rng(seed, "simulator", "users", int(users[0]))
    tastes = rng.dirichlet(np.full(len(_SHELVES), 0.4), size=len(users))
    return tastes, rng.integers(5, size=(len(users), len(_SHELVES))), rng


def _match(shop: _Shop, tastes: Floats, favourites: NDArray[np.int64]) -> Floats:
    matched: Floats = tastes[:, shop.category] * (
        1 + 2 * (favourites[:, shop.category] == shop.brand)
    )
    return matched


def _appeal(shop: _Shop, match: Floats) -> Floats:
    return (match + 1e-3) * shop.popularity


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


@dataclass(frozen=True, eq=False)
class Truth:
    """What the simulated shop knows of its items and customers, and no log tells.

    Users and items go by the numbers that they have in a log; see :meth:`of`.
    """

    _shop: _Shop
    _tastes: Floats  # (users, categories); the last is a stranger's
    _favourites: NDArray[np.int64]  # the brands, (users, categories)
    _users: NDArray[np.int64]  # the shop's number of each user of the log
    _items: NDArray[np.int64]  # the shop's number of each item of the log

    @classmethod
    def of(
        cls,
        shop: Mapping[str, int],
        user_ids: Sequence[str],
        item_ids: Sequence[str],
    ) -> Truth:
        """Simulate a shop's tastes again.

        Args:
            shop: the arguments of :func:`simulate_shop`.
            user_ids: the log's users; one whom the shop does not have has the mean taste.
            item_ids: the log's items.

        Raises:
            RecinjectError: an item is not of the shop.
        """
        stock, seed = _stock(shop["items"], shop["seed"]), shop["seed"]
        starts = range(0, shop["users"], _USERS_AT_ONCE)
        blocks = [np.arange(n, min(n + _USERS_AT_ONCE, shop["users"])) for n in starts]
        tastes, favourites, _ = zip(*(_meet(block, seed) for block in blocks), strict=True)
        known = {_USER.format(user): user for user in range(shop["users"])}
        numbers = {item: n for n, item in enumerate(stock.frame["item_id"])}
        if strange := [item for item in item_ids if item not in numbers]:
            raise RecinjectError(
                f"oracle: the shop of {shop['items']} items has no item {strange[0]!r}",
                hint="give the settings and the seed that data.simulator had",
            )
        every = np.concatenate(tastes)
        return cls(
            stock,
            np.vstack([every, every.mean(0)]),
            np.vstack([*favourites, np.full(len(_SHELVES), -1)]),
            np.array([known.get(user, shop["users"]) for user in user_ids], np.int64),
            np.array([numbers[item] for item in item_ids], np.int64),
        )

    def chances_of_next(self, user: int, history: Integers) -> Floats:
        """Return the probability that each item of the log is what the user takes next.

        ``history`` is all that the user took, oldest first; a user beyond the log's is a stranger.
        """
        shop, past = self._shop, self._items[history]
        row = [self._users[user] if user < len(self._users) else len(self._tastes) - 1]
        left = _appeal(shop, _match(shop, self._tastes[row], self._favourites[row]))[0]
        left[past] = 0
        shares = (_LAST_ITEM_SHARE, 1 - _LAST_ITEM_SHARE) if len(past) > 1 else (1.0,)
        followed = np.zeros(len(left))
        for share, item in zip(shares, past[::-1], strict=False):
            chances = np.multiply(_FOLLOW * share, _SUCCESSOR_SHARES)
            np.add.at(followed, shop.successors[item], chances)
        followed[left <= 0] = 0
        whole: Floats = followed + (1 - followed.sum()) * left / left.sum()
        return whole[self._items]
