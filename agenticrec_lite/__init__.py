"""A small reproduction of AgenticRec (arXiv 2603.21613): a tool-using ranking agent trained by RL.

The rooms, each importing only from those before it: errors, methods, profiles, runs, data, recommenders, tools, policy,
plan, agent, rewards, training, evaluation, nano, experiment, paper, show, report, hub, reproduce, cli
(and colab, beside them).
Importing the package itself loads none of them.
"""

import logging

# On some CPUs it asks for a package of faster kernels, which `policy.keep_training_layout` would not let it use.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"
