"""Training: list-wise GRPO, hard-negative mining, PPR, and the pipeline through them.

Importing it silences notices of the libraries below that a reader can do nothing about.
"""

import logging
import os
import warnings

from transformers.utils import logging as transformers_logging

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is marked experimental; trl is pinned
warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)  # trl's and peft's
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # an optional kernel is not installed
transformers_logging.disable_progress_bar()  # of loading the weights, once a stage
