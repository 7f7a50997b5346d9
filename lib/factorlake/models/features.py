"""Attributes as features: which columns a side's attributes make, and the row of each id."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError
from factorlake.texts import bare, number_of

MOST_COLUMNS = 4096
"""Of one side: the regression on them is dense."""


@dataclass(frozen=True)
class Vocabulary:
    """The columns that attributes make: a column of ones first, then those of each attribute.

    An attribute is categorical, with a column for each value that is kept, or a number, with a column for each of its
    ranges. A row has 1 in the columns of its values; what the vocabulary does not know has no column.
    """

    names: tuple[str, ...]
    """Attributes, in the order in which rows give them."""
    values: tuple[tuple[str, ...], ...]
    """Of each attribute the values that are kept; empty for a number."""
    edges: tuple[tuple[float, ...], ...]
    """Of each attribute that is a number where its ranges meet, ascending; empty for another."""
    separator: str = "|"
    """What parts the values of one id in a text."""

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.values) == len(self.edges):
            raise ConfigError("a vocabulary has values and edges for each of its attributes")
        if self.n_columns > MOST_COLUMNS:
            raise ConfigError(
                f"{', '.join(self.names)} make {self.n_columns} columns, more than {MOST_COLUMNS}: name fewer "
                "attributes in train.features, or lower train.features.max_values"
            )

    @property
    def n_columns(self) -> int:
        return self._starts[-1]

    @cached_property
    def _starts(self) -> list[int]:
        """First column of each attribute, and the number of columns behind them."""
        starts = [1]
        for values, edges in zip(self.values, self.edges, strict=True):
            starts.append(starts[-1] + (len(edges) + 1 if edges else len(values)))
        return starts

    @cached_property
    def _places(self) -> list[dict[str, int]]:
        return [
            {value: start + place for place, value in enumerate(values)}
            for start, values in zip(self._starts, self.values, strict=False)
        ]

    def columns(self) -> list[str]:
        """Return what each column stands for, as people read it."""
        told = ["(all)"]
        for name, values, edges in zip(self.names, self.values, self.edges, strict=True):
            ends = [-math.inf, *edges, math.inf]
            ranges = [f"{name} {low:g} to {high:g}" for low, high in pairwise(ends)] if edges else []
            told += ranges or [f"{name}={value}" for value in values]
        return told

    def kinds(self) -> dict[str, str]:
        """Return what each attribute was taken for."""
        return {
            name: f"number (ranges: {len(edges) + 1})" if edges else f"category (values: {len(values)})"
            for name, values, edges in zip(self.names, self.values, self.edges, strict=True)
        }

    def rows(self, attributes: Sequence[Sequence[str | None]]) -> NDArray[np.float32]:
        """Return the rows (n, n_columns) of some ids, each given by the text of its attributes; no ids give no rows."""
        made = np.zeros((len(attributes), self.n_columns), np.float32)
        made[:, 0] = 1
        for row, texts in zip(made, attributes, strict=True):
            for place, text in enumerate(texts):
                if text is None:
                    continue
                if self.edges[place]:
                    number = number_of(bare(text))
                    if number is not None:
                        row[self._starts[place] + bisect_right(self.edges[place], number)] = 1
                    continue
                for value in values_of(text, self.separator):
                    column = self._places[place].get(value)
                    if column is not None:
                        row[column] = 1
        return made

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` makes the vocabulary from again."""
        return {"names": self.names, "values": self.values, "edges": self.edges, "separator": self.separator}

    @staticmethod
    def from_json(told: str | Mapping[str, Any]) -> Vocabulary:
        """Return a vocabulary from its JSON."""
        known = json.loads(told) if isinstance(told, str) else told
        return Vocabulary(
            tuple(known["names"]),
            tuple(tuple(values) for values in known["values"]),
            tuple(tuple(float(edge) for edge in edges) for edges in known["edges"]),
            known["separator"],
        )


def values_of(text: str, separator: str) -> list[str]:
    """Return the values in the text of a categorical attribute, without white space around them; empty ones are
    none."""
    parts = text.split(separator) if separator else [text]
    return [part for part in (bare(one) for one in parts) if part]
