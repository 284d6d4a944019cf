"""Upstream PyTorch checkpoints to the native format: names and layouts, nothing of model code.

`rules` says what a rule is, one file a family (`pi3`) holds the rules as data, `sources` reads
checkpoints tensor by tensor, `engine` matches the two and streams the result.
"""
