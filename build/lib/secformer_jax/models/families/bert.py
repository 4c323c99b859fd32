"""BERT (Devlin et al. 2019): the tree and the names that the others are told against."""

from secformer_jax.models.families.family import Family

FAMILY = Family(classes={"bert": "Bert"}, prefix="bert")
