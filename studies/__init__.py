"""What would have happened otherwise: runs that differ from `agenticrec run` in one thing each (ablations).

`variants` says in what, `run` does it (`python -m studies --help`), and `agenticrec report` sets each beside the run
that it differs from.
"""
