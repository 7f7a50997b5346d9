"""The tracks and listeners of the embedded demo log: invented names, and genres that follow the planted
taste."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_GENRES = ("ambient", "folk", "jazz", "electronica", "soul", "indie", "chamber", "dub")
_TRACKS_PER_ARTIST = 5
_COUNTRIES = ("DE", "FR", "GB", "IN", "BR", "US", "JP", "KE")
_PLANS = ("free", "family", "premium")
_PLAN_SHARES = (0.55, 0.15, 0.3)

# fmt: off
_MOODS = (
    "Amber", "Azure", "Borrowed", "Brittle", "Copper", "Crooked", "Distant", "Drifting", "Early", "Electric",
    "Fading", "Feather", "Folded", "Gentle", "Gilded", "Half-Lit", "Hollow", "Indigo", "Last", "Lucid",
    "Marble", "Midnight", "Northern", "Paper", "Patient", "Quiet", "Restless", "Saffron", "Salted", "Silver",
    "Slow", "Small", "Softer", "Sudden", "Tidal", "Unsent", "Velvet", "Wandering", "Winter", "Yellow",
)
_THINGS = (
    "Afternoons", "Almanac", "Arcade", "Bicycle", "Bridges", "Canopy", "Carousel", "Compass",
    "Constellations", "Corridors", "Driftwood", "Embers", "Ferry", "Fountains", "Gardens", "Harbour",
    "Horizon", "Instruments", "Islands", "Kites", "Lanterns", "Letters", "Lighthouse", "Lullaby", "Maps",
    "Meadows", "Mirrors", "Orchard", "Parade", "Postcards", "Rivers", "Rooftops", "Satellites", "Seasons",
    "Shorelines", "Stairways", "Telephones", "Umbrellas", "Voyage", "Windows",
)
_GIVEN = (
    "Ada", "Bruno", "Celia", "Dario", "Elif", "Farid", "Greta", "Hugo", "Imani", "Jonas", "Keiko", "Lena",
    "Mateo", "Noor", "Odile", "Priya", "Quinn", "Rosa", "Sami", "Tove",
)
_FAMILY = (
    "Abara", "Bellweather", "Castellane", "Dorn", "Eklund", "Fontaine", "Grimaldi", "Hollis", "Ibarra",
    "Jansson", "Kaplan", "Lindqvist", "Moreau", "Nakamura", "Okafor", "Petrov", "Quintero", "Rask", "Solberg",
    "Thackeray",
)
# fmt: on
_ENSEMBLES = ("Trio", "Collective", "Orchestra", "Sound System", "Quartet")


@dataclass(frozen=True)
class Track:
    """One track, as tracks.csv has it."""

    track_id: str
    title: str
    artist: str
    genre: str
    released: int


@dataclass(frozen=True)
class Listener:
    """One listener, as listeners.csv has it."""

    listener_id: str
    country: str
    plan: str


def make_tracks(item_taste: NDArray[np.float32], rng: np.random.Generator) -> list[Track]:
    """Return one track per row of `item_taste` (n_tracks, rank), titles and ids all different.

    The genre is the taste axis on which a track lies farthest out, so that a list to one listener's taste
    also reads like one. Every other id is a UUID, the rest are short codes, as when two catalogues were
    joined.
    """
    n_tracks = len(item_taste)
    genres = np.argmax(item_taste[:, : len(_GENRES)], axis=1)
    n_titles = len(_MOODS) * len(_THINGS)
    titles = rng.permutation(n_titles)
    artists = [
        _artists(max(1, int((genres == genre).sum()) // _TRACKS_PER_ARTIST), rng) for genre in range(len(_GENRES))
    ]
    tracks = []
    for position in range(n_tracks):
        edition, which = divmod(position, n_titles)
        mood, thing = divmod(int(titles[which]), len(_THINGS))
        title = f"{_MOODS[mood]} {_THINGS[thing]}" + (f" (No. {edition + 1})" if edition else "")
        own = artists[genres[position]]
        tracks.append(
            Track(
                track_id=_track_id(position, rng),
                title=title,
                artist=own[int(rng.integers(len(own)))],
                genre=_GENRES[genres[position]],
                released=int(rng.integers(1971, 2025)),
            )
        )
    return tracks


def make_listeners(n_listeners: int, rng: np.random.Generator) -> list[Listener]:
    """Return listeners L00000, L00001, … with a country and a plan each."""
    countries = rng.integers(len(_COUNTRIES), size=n_listeners)
    plans = rng.choice(len(_PLANS), size=n_listeners, p=_PLAN_SHARES)
    return [
        Listener(f"L{number:05d}", _COUNTRIES[countries[number]], _PLANS[plans[number]])
        for number in range(n_listeners)
    ]


def _track_id(position: int, rng: np.random.Generator) -> str:
    if position % 2:
        return str(uuid.UUID(bytes=rng.bytes(16), version=4))
    return f"trk-{position:04d}{rng.bytes(2).hex()}"


def _artists(count: int, rng: np.random.Generator) -> list[str]:
    names = []
    for _ in range(count):
        name = f"{_GIVEN[rng.integers(len(_GIVEN))]} {_FAMILY[rng.integers(len(_FAMILY))]}"
        if rng.random() < 0.35:
            name = f"{name.split()[1]} {_ENSEMBLES[rng.integers(len(_ENSEMBLES))]}"
        names.append(name)
    return names
