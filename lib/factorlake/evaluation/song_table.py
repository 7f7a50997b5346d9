"""An example small enough to read: how four people rated twelve songs, from 1 to 5."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PEOPLE = ("Darth Vader", "Hermione", "Ripley", "Spock")
SONGS = (
    "Another One Bites the Dust",
    "Back in Black",
    "Bohemian Rhapsody",
    "Brandenburg Concerto No. 3",
    "Clair de Lune",
    "Comfortably Numb",
    "Don't Stop Believin'",
    "Firework",
    "Hedwig's Theme",
    "O Fortuna",
    "Survivor",
    "The Imperial March",
)
TABLE = (
    (4, 4, 2, 0, 1, 2, 2, 0, 0, 4, 0, 5),
    (1, 0, 5, 0, 5, 2, 2, 5, 5, 2, 2, 1),
    (5, 5, 2, 1, 2, 3, 4, 4, 0, 5, 5, 4),
    (2, 0, 5, 5, 5, 4, 3, 2, 3, 4, 2, 0),
)
"""Ratings of each person, in the order of the songs; 0 where a song was never heard."""


def song_ratings() -> tuple[list[str], list[str], NDArray[np.float32]]:
    """Return (person, song, rating) of every song that was heard, 39 in all."""
    table = np.array(TABLE, np.float32)
    people, songs = np.nonzero(table)
    return [PEOPLE[person] for person in people], [SONGS[song] for song in songs], table[people, songs]
