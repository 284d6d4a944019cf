"""Array kernels with one contract over several backends; they know nothing of models.

Each operation is one folder: `api` (what callers import), one file for each backend, and a plain
`reference`. `implementation=None` takes the best backend that can do the job; a backend asked for
by name runs or raises, and never falls back to another.
"""
