"""factorlake: from interaction logs to published recommendations on Spark and Delta."""

__version__ = "0.1.0"
