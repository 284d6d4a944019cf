"""The PyTorch originals of our models, timed in a process of their own.

`upstream.py` is what that process runs: it needs PyTorch and imports nothing of ours. `checkout.py`
is the side of the caller, which never imports PyTorch.
"""
