"""A drop-in for pyspark.ml's ALS: the same Estimator and Model, with this project's engine under them.

Change ``from pyspark.ml.recommendation import ALS`` into ``from factorlake.ml import ALS``; nothing else. What differs
is in docs/from-pyspark-ml.md.
"""

from factorlake.ml.model import ALSModel
from factorlake.ml.recommendation import ALS

__all__ = ["ALS", "ALSModel"]
