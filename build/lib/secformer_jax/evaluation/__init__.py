"""GLUE tasks, and the predictions of a model for them. Nothing here needs spu."""
