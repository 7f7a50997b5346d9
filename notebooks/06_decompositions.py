# Databricks notebook source
# MAGIC %md
# MAGIC # Other ways to factor a matrix
# MAGIC Small examples, without a log: ratings by stochastic gradients beside ALS and beside neighbours, a picture by
# MAGIC truncated SVD, a clip by robust PCA, and topics by non-negative factors. The jobs `sgd` and `decompose` do
# MAGIC the same to tables of any size.

# COMMAND ----------

# DBTITLE 1,Parameters
dbutils.widgets.text("epochs", "1000", "Epochs of stochastic gradients")
dbutils.widgets.text("size", "256", "Pixels of the picture's sides")

# COMMAND ----------

# DBTITLE 1,Ratings: stochastic gradients and ALS on the song table
import matplotlib.pyplot as plt
import numpy as np

from factorlake.evaluation.song_table import PEOPLE, SONGS, song_ratings
from factorlake.models.fit import fit_als
from factorlake.models.fit_sgd import fit_sgd
from factorlake.models.parameters import AlsParameters
from factorlake.models.sgd_parameters import SgdParameters

people, songs, ratings = song_ratings()
by_gradients = fit_sgd(
    people,
    songs,
    ratings,
    SgdParameters(
        rank=5, learning_rate=0.01, regularization=0.02, biases=False, epochs=int(dbutils.widgets.get("epochs"))
    ),
)
# The same objective: a step takes λ/2 of the ridge for each rating.
by_als = fit_als(
    people,
    songs,
    ratings,
    AlsParameters(objective="explicit", rank=5, regularization=0.01, biases=False, epochs=100, tolerance=None),
)
figure, axes = plt.subplots(figsize=(7, 3))
axes.loglog([row.epoch + 1 for row in by_gradients.model.trace], [row.loss for row in by_gradients.model.trace])
axes.axhline(by_als.model.loss, linestyle="--", color="gray")
axes.set_xlabel("epoch")
axes.set_ylabel("objective; dashed: ALS at its end")
display(figure)

# COMMAND ----------

# DBTITLE 1,The same by neighbours: what Hermione is offered
from factorlake.models.fit import pack_ratings
from factorlake.models.neighbours import NeighbourRules, cosine_neighbours, recommend_from_users

packed = pack_ratings(people, songs, ratings, AlsParameters(objective="explicit"))
ranks = [np.argsort(np.argsort(np.array(ids))) for ids in (packed.user_ids, packed.item_ids)]
alike = cosine_neighbours(packed.user_blocks, len(SONGS), NeighbourRules(n=len(PEOPLE) - 1), ranks[0])
lists = recommend_from_users(packed.user_blocks, len(SONGS), alike, 3, ranks[1])
hermione = packed.user_ids.index("Hermione")
for song, score in zip(lists.entries[hermione], lists.values[hermione], strict=True):
    if song >= 0:
        print(f"{packed.item_ids[song]}: {score:.2f}")

# COMMAND ----------

# DBTITLE 1,A picture: truncated SVD
from factorlake.evaluation.planted_pictures import colour_picture
from factorlake.media import footprint, matrix_picture, picture_matrix
from factorlake.models.row_plan import LocalRowPlan, even_blocks
from factorlake.models.truncated_svd import SvdParameters, truncated_svd

pixels = colour_picture(int(dbutils.widgets.get("size")))
matrix = picture_matrix(pixels)
pictures, captions = [pixels], ["as it is"]
with LocalRowPlan(even_blocks(len(matrix), matrix.strides[0]), threads=2) as plan:
    for rank in (10, 50):
        found = truncated_svd(plan, plan.hold(matrix), matrix.shape[1], SvdParameters(rank=rank))
        product = (found.left.whole() * found.singular_values) @ found.right.T
        pictures.append(matrix_picture(product, pixels.shape))
        kept = footprint(matrix.shape, rank)
        captions.append(f"rank {rank}: {kept.kept_numbers:,} of {kept.numbers:,} numbers")
figure, panels = plt.subplots(1, 3, figsize=(10, 3.6))
for panel, picture, caption in zip(panels, pictures, captions, strict=True):
    panel.imshow(picture)
    panel.set_title(caption, fontsize=9)
    panel.axis("off")
display(figure)

# COMMAND ----------

# DBTITLE 1,A clip: robust PCA
from factorlake.evaluation.planted_pictures import clip
from factorlake.media import clip_matrix, matrix_clip
from factorlake.models.robust_pca import RobustPcaParameters, robust_pca

frames = clip(40, 72, 96).frames.astype(np.float32) / 255
matrix = clip_matrix(frames)
with LocalRowPlan(even_blocks(len(matrix), matrix.strides[0]), threads=2) as plan:
    found = robust_pca(plan, plan.hold(matrix), matrix.shape[1], RobustPcaParameters(tolerance=1e-5))
background = matrix_clip(found.separation.low_rank(found.left.whole()), frames.shape[1:])
sparse = found.separation.sparse(found.held.whole())
mask = matrix_clip((np.abs(sparse) >= 0.1).astype(np.float32), frames.shape[1:])
figure, panels = plt.subplots(3, 4, figsize=(9, 5))
for row, (name, part) in enumerate({"frame": frames, "background": background, "mask": mask}.items()):
    for panel, at in zip(panels[row], (0, 13, 26, 39), strict=True):
        panel.imshow(part[at], cmap="gray", vmin=0, vmax=1)
        panel.set_title(f"{name} {at + 1}", fontsize=8)
        panel.axis("off")
display(figure)

# COMMAND ----------

# DBTITLE 1,Topics: non-negative factors of counts
random = np.random.default_rng(7)
WORDS = [["sea", "ship", "salt", "wind"], ["bread", "oven", "flour", "salt"], ["goal", "match", "referee", "wind"]]
counts = {}
for document in range(300):
    for word in random.choice(WORDS[document % 3], 15):
        counts[document, str(word)] = counts.get((document, str(word)), 0) + 1
topics = fit_als(
    [f"document {document}" for document, _ in counts],
    [word for _, word in counts],
    np.array(list(counts.values()), np.float32),
    AlsParameters(objective="frobenius", nonnegative=True, rank=3, regularization=0.0, epochs=100),
)
figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), sharex=True)
for topic, panel in enumerate(axes):
    weights = topics.model.item_factors[:, topic]
    best = np.argsort(weights)[-4:]
    panel.barh([topics.item_ids[word] for word in best], weights[best])
    panel.set_title(f"topic {topic + 1}", fontsize=9)
figure.tight_layout()
display(figure)
