# Databricks notebook source
# MAGIC %md
# MAGIC # From raw log to published recommendations
# MAGIC Runs the whole factorlake pipeline on the log that a conf file names, then shows how training went and
# MAGIC what was published. With the default conf the log is embedded: a music service with planted tastes.
# MAGIC
# MAGIC The package must be installed in the notebook's environment (its wheel, built by `make package`).

# COMMAND ----------

# DBTITLE 1,Parameters
dbutils.widgets.text("config", "../conf/base/demo.yaml", "Conf file")
dbutils.widgets.text("root", ".demo/lake", "Folder or URI of all tables")
dbutils.widgets.text("set", "", "More settings: key=value, separated by spaces")

# COMMAND ----------

# DBTITLE 1,Settings
from factorlake.config.loader import conf_folder, load_settings

config = dbutils.widgets.get("config")
overrides = [f"root={dbutils.widgets.get('root')}", *dbutils.widgets.get("set").split()]
settings = load_settings([config], overrides)

# COMMAND ----------

# DBTITLE 1,The pipeline, all stages
from factorlake.errors import DONE, NOTHING_TO_DO
from factorlake.pipelines.jobs import execute
from factorlake.reporting.progress import open_progress
from factorlake.spark.session import open_session

spark = open_session(settings.spark)
with open_progress() as progress:
    result = execute("run", settings, conf_dir=conf_folder([config]), open_session=lambda: spark, progress=progress)
if result["exit_code"] not in (DONE, NOTHING_TO_DO):
    raise RuntimeError(result["reason"])

# COMMAND ----------

# DBTITLE 1,How training went
from pyspark.sql import functions as F

from factorlake.tables.names import Lake

lake = Lake.at(settings.root, settings.recommender)
trace = spark.read.format("delta").load(lake.own("training_trace")).orderBy("model_version", "epoch", F.desc("side"))
display(trace)

# COMMAND ----------

# DBTITLE 1,The objective by half step: users, then items, of each epoch
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 3))
for version, half_steps in trace.dropna(subset=["loss"]).toPandas().groupby("model_version"):
    axes.plot(range(len(half_steps)), half_steps["loss"], marker="o", label=version)
axes.set_xlabel("half step")
axes.set_ylabel("objective")
axes.legend()
display(figure)

# COMMAND ----------

# DBTITLE 1,What the model is worth beside the baselines
display(spark.read.format("delta").load(lake.own("evaluation")).where("slice is null"))

# COMMAND ----------

# DBTITLE 1,Published recommendations
display(spark.read.format("delta").load(lake.published("recommendations", settings.publish.slot)).limit(50))
