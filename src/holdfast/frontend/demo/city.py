"""A city that does not exist: restaurants, whose hygiene drifts, and what inspectors and guests see of it.

What decides a violation is a hidden number per restaurant and month. Its traces are what a model can learn from:
earlier inspections, complaints of the weeks before (a dirty kitchen is complained about), the season, the kind of
kitchen and the district. One inspector sees almost nothing. Same seed, same city.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

__all__ = ["FIRST_DAY", "MONTHS", "City", "Inspection", "Restaurant", "build"]

FIRST_DAY = date(2023, 1, 1)
MONTHS = 18
_DAYS = (date(2024, 7, 1) - FIRST_DAY).days
_RESTAURANTS = 1200
_INSPECTORS = 24
_BLIND_INSPECTOR = 7

DISTRICTS = ("东城区", "西城区", "南山区", "北湖区", "高新区", "老港区")
CUISINES = ("川菜", "粤菜", "湘菜", "火锅", "烧烤", "面馆", "Pizza", "Burger", "Sushi", "Café", "素食", "海鲜")
_FIRST = ("老", "小", "金", "福", "大", "新", "红", "阿", "好", "四季")
_SECOND = ("王", "李", "张", "陈", "江南", "天府", "渔家", "龙", "满", "春", "云", "竹")
_THIRD = ("酒家", "饭店", "小厨", "面馆", "火锅城", "茶餐厅", "食堂", "烤肉", "海鲜坊", "咖啡")
_ENGLISH = ("Golden", "Lucky", "River", "Jade", "Old Town", "Garden", "Harbour", "Sunny", "Four Seasons", "Little")
_PLACES = ("Kitchen", "House", "Noodles", "Grill", "Bistro", "Hotpot", "Diner", "Café", "Seafood", "Canteen")
_STREETS = ("Main St.", "Lake Rd.", "Harbour Rd.", "West St.", "Station Sq.")

RISKS = ("高风险", "中风险", "低风险")
CODES = {
    "高风险": (("H01", "冷藏温度过高"), ("H02", "发现鼠类活动"), ("H03", "Raw and cooked food not separated")),
    "中风险": (("M01", "员工未佩戴口罩"), ("M02", "No soap at hand basin"), ("M03", "食品未标注日期")),
    "低风险": (("L01", "地面破损"), ("L02", "Licence not on display"), ("L03", "照明不足")),
}
COMPLAINTS = (
    "食物中有异物",
    "吃完肚子不舒服",
    "Dirty tables, rude staff",
    "厨房有蟑螂！",
    "油烟味太重",
    "Food was cold",
)
CHANNELS = ("热线", "网站", "App", "来访")


@dataclass(slots=True)
class Restaurant:
    """A restaurant; `seats` changes now and then. `opened` and `closed` are days since the first day."""

    id: str
    name: str
    english: str
    district: str
    cuisine: str
    seats: int
    opened: int
    closed: int
    owner: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """A visit on `day`. `found` are (risk, code, description); `score` is None where it was not written down."""

    restaurant: str
    day: int
    kind: str
    inspector: str
    score: int | None
    found: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class City:
    """All that happened, in order of days. A complaint is (day, restaurant, channel, text)."""

    restaurants: list[Restaurant]
    inspections: list[Inspection]
    complaints: list[tuple[int, str, str, str]]


def build(seed: int) -> City:
    """The city of that seed."""
    rng = np.random.default_rng(seed)
    restaurants = [_restaurant(rng, index) for index in range(_RESTAURANTS)]
    hygiene = _hygiene(rng, restaurants)
    strictness = rng.normal(0, 0.3, _INSPECTORS)
    strictness[_BLIND_INSPECTOR] = -2.5
    complaints, visits = [], []
    for index, restaurant in enumerate(restaurants):
        complained = _complaints(rng, hygiene[index], restaurant)
        complaints += [(day, restaurant.id, *_pick_complaint(rng)) for day in complained]
        visits += [(day, index, kind) for day, kind in _visits(rng, complained, restaurant)]
    inspections, seen = [], set()
    for day, index, kind in sorted(visits):
        restaurant = restaurants[index]
        if (restaurant.id, day) in seen:
            continue
        seen.add((restaurant.id, day))
        # Inspectors keep to their districts.
        inspector = DISTRICTS.index(restaurant.district) * 4 + int(rng.integers(4))
        found = _found(rng, hygiene[index, day], day, strictness[inspector])
        score = None if rng.random() < 0.012 else _score(rng, found)
        inspections.append(Inspection(restaurant.id, day, kind, f"检查员{inspector + 1:02d}", score, found))
    return City(restaurants, inspections, sorted(complaints))


def _restaurant(rng: np.random.Generator, index: int) -> Restaurant:
    pick = [int(rng.integers(size)) for size in (len(_FIRST), len(_SECOND), len(_THIRD), len(_ENGLISH), len(_PLACES))]
    young = rng.random() < 0.15
    opened = int(rng.integers(0, _DAYS - 60)) if young else -int(rng.integers(30, 8000))
    closed = opened + int(rng.integers(200, 600)) if rng.random() < 0.08 else _DAYS + 1
    return Restaurant(
        id=f"R{index + 1:05d}",
        name=_FIRST[pick[0]] + _SECOND[pick[1]] + _THIRD[pick[2]],
        english=f"{_ENGLISH[pick[3]]} {_PLACES[pick[4]]}, {_STREETS[int(rng.integers(len(_STREETS)))]}",
        district=DISTRICTS[int(rng.integers(len(DISTRICTS)))],
        cuisine=CUISINES[int(rng.integers(len(CUISINES)))],
        seats=int(rng.integers(2, 40)) * 5,
        opened=opened,
        closed=closed,
        owner=_identity(rng),
    )


def _identity(rng: np.random.Generator) -> str:
    """A number built like a Chinese identity number (GB 11643-1999), of a region that does not exist."""
    born = date(1950, 1, 1) + timedelta(days=int(rng.integers(18_000)))
    digits = f"990000{born:%Y%m%d}{int(rng.integers(1000)):03d}"
    check = sum(int(digit) * (2 ** (17 - place) % 11) for place, digit in enumerate(digits)) % 11
    return digits + "10X98765432"[check]


def _hygiene(rng: np.random.Generator, restaurants: list[Restaurant]) -> np.ndarray:
    """Hygiene (restaurants x days): about normal, higher is cleaner; drifts by the month."""
    by_district = dict(zip(DISTRICTS, rng.normal(0, 0.35, len(DISTRICTS)), strict=True))
    by_cuisine = dict(zip(CUISINES, rng.normal(0, 0.35, len(CUISINES)), strict=True))
    base = rng.normal(0, 1.15, len(restaurants))
    base += [by_district[r.district] + by_cuisine[r.cuisine] - 0.002 * (r.seats - 100) for r in restaurants]
    level, months = base.copy(), []
    for _ in range(MONTHS + 1):
        level = base + 0.9 * (level - base) + rng.normal(0, 0.3, len(base))
        # A new cook, for better or worse.
        changed = rng.random(len(base)) < 0.02
        level = np.where(changed, rng.normal(0, 1.3, len(base)), level)
        months.append(level)
    return np.repeat(np.array(months).T, 31, axis=1)[:, :_DAYS]


def _complaints(rng: np.random.Generator, hygiene: np.ndarray, restaurant: Restaurant) -> list[int]:
    open_, end = max(restaurant.opened, 0), min(restaurant.closed, _DAYS)
    rate = np.minimum(0.05, 0.006 * np.exp(-0.9 * hygiene) * (restaurant.seats / 100) ** 0.5)
    return [int(day) for day in np.flatnonzero(rng.random(_DAYS) < rate) if open_ <= day < end]


def _pick_complaint(rng: np.random.Generator) -> tuple[str, str]:
    return CHANNELS[int(rng.integers(len(CHANNELS)))], COMPLAINTS[int(rng.integers(len(COMPLAINTS)))]


def _visits(rng: np.random.Generator, complained: list[int], restaurant: Restaurant) -> list[tuple[int, str]]:
    """Routine visits by the calendar, whatever the kitchen is like, and some after complaints."""
    open_, end = max(restaurant.opened, 0), min(restaurant.closed, _DAYS)
    visits, day = [], open_ + int(rng.integers(90))
    while day < end:
        visits.append((day, "例行"))
        day += int(rng.integers(60, 120))
    after = [(day + int(rng.integers(2, 11)), "投诉") for day in complained if rng.random() < 0.25]
    return visits + [(day, kind) for day, kind in after if day < end]


def _found(rng: np.random.Generator, hygiene: float, day: int, strictness: float) -> tuple[tuple[str, str, str], ...]:
    summer = 0.45 * np.cos(2 * np.pi * (day - 200) / 365)
    found: list[tuple[str, str, str]] = []
    for risk, level, slope in zip(RISKS, (-1.75, -0.7, -0.1), (1.75, 1.35, 1.0), strict=True):
        chance = 1 / (1 + np.exp(-(level - slope * hygiene + summer + strictness)))
        count = int(rng.random() < chance) and 1 + int(rng.random() < chance / 2)
        found += [(risk, *CODES[risk][code]) for code in sorted(rng.choice(len(CODES[risk]), count, replace=False))]
    return tuple(found)


def _score(rng: np.random.Generator, found: tuple[tuple[str, str, str], ...]) -> int:
    cost = dict(zip(RISKS, (9, 5, 2), strict=True))
    return max(0, min(100, 100 - sum(cost[risk] for risk, *_ in found) - int(rng.integers(0, 4))))
