"""Invents the directories of the towns: ``python -m examples.towns.data.generate``.

The CSV files are part of the example, this program only tells where they come from. Towns
and many of their streets exist; the businesses, clubs and people do not.
"""

from __future__ import annotations

import csv
import random
import tomllib
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WORDS: dict[str, Any] = tomllib.loads((HERE / "words.toml").read_text(encoding="utf-8"))
FAMILIES, FIRST_NAMES, INNS, FLOWERS = (
    WORDS[key].split() for key in ("families", "first_names", "inns", "flowers")
)

FAMILIES_PER_TOWN = 45
YOUNGEST = 2024


def slug(name: str) -> str:
    """Return a name as it could stand in an address on the internet."""
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    return "-".join("".join(c if c.isalnum() else " " for c in plain).split())


def some(words: list[str], least: int, dice: random.Random) -> list[str]:
    """Return a few of the words, in any order."""
    return dice.sample(words, min(dice.randint(least, 3), len(words)))


def invent(place: dict[str, Any], dice: random.Random) -> Iterator[dict[str, str]]:
    """Yield the records of a town, no name twice."""
    families = dice.sample(FAMILIES, FAMILIES_PER_TOWN)
    shares = [trade["share"] for trade in WORDS["trades"]]
    taken: set[str] = set()
    while len(taken) < place["size"]:
        trade = dice.choices(WORDS["trades"], shares)[0]
        record = invent_one(place, trade, families, dice)
        if record["name"] not in taken:
            taken.add(record["name"])
            yield record


def invent_one(
    place: dict[str, Any], trade: dict[str, Any], families: list[str], dice: random.Random
) -> dict[str, str]:
    """Return one record."""
    first, family, family2 = dice.choice(FIRST_NAMES), *dice.sample(families, 2)
    name = dice.choice(trade["names"]).format(
        first=first,
        family=family,
        family2=family2,
        inn=dice.choice(INNS),
        flower=dice.choice(FLOWERS),
        quarter=dice.choice(place["quarters"]),
    )
    postcode, streets = dice.choice(list(place["streets"].items()))
    domain = f"{slug(name)}.example"
    return {
        "name": name,
        "category": trade["category"],
        "description": f"{', '.join(some(trade['offers'], 1, dice))}.",
        "street": dice.choice(streets),
        "house_number": f"{dice.randint(1, 120)}{dice.choice(['', '', '', '', 'a', 'b'])}",
        "postcode": postcode,
        "locality": place["locality"],
        "founded": str(dice.randint(trade["oldest"], YOUNGEST)) if dice.random() < 0.7 else "",
        "tags": "|".join(sorted(some(trade["tags"], 0, dice))),
        "email": f"{dice.choice(['info', 'kontakt', slug(first)])}@{domain}",
        "web": f"https://{domain}/" if dice.random() < 0.6 else "",
        "person": f"{first} {family}",
        "opening_hours": dice.choice(trade["hours"]),
    }


def main() -> None:
    """Write one file for each town, the same ones each time."""
    for place in WORDS["places"]:
        records = sorted(
            invent(place, random.Random(place["schema"])), key=lambda record: record["name"]
        )
        with (HERE / f"{place['schema']}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, records[0], delimiter=";", lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)


if __name__ == "__main__":
    main()
