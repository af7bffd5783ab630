"""Training loops of others: callbacks that change edges, write them to logs, and go on from checkpoints.

``sparsetrain.trainers.lightning`` and ``sparsetrain.trainers.transformers`` import the package of their name, and are
imported by whoever wants them. Accelerate and loops of one's own need nothing from here: evolve.attach and
io.adopt_on_load serve them.
"""
