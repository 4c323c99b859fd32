"""The commands of `secformer`, one file each with its options, and what several of them share."""
