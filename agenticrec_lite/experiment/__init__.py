"""What a notebook and the command line hold in hand: a run with its parts, its stages and its results.

`start` begins a run; `stages` has what it goes through; `results` what it leaves; `shipped` finished runs.
"""

from agenticrec_lite.experiment.experiment import Experiment, start
from agenticrec_lite.experiment.extensions import Extensions

__all__ = ["Experiment", "Extensions", "start"]
