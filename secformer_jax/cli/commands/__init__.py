"""The commands of `secformer`, one file each; `cli` reads their options."""
